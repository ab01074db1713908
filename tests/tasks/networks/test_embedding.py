"""Embeddings: what the features of a time are, how near two times may come, and which row a label has."""

import torch

from tasks.networks.embedding import LabelEmbedding, TimeEmbedding, silent_embedding


def features(embedding: TimeEmbedding, t: torch.Tensor) -> torch.Tensor:
    """The cosines and sines, by making the hidden layer the identity and inverting silu's input by hand."""
    seen: list[torch.Tensor] = []
    handle = embedding.hidden.register_forward_hook(lambda _module, args, _output: seen.append(args[0]))
    embedding(t)
    handle.remove()
    return seen[0]


def test_a_single_time_is_one_row_to_be_broadcast() -> None:
    embedding = TimeEmbedding(6)
    assert embedding(torch.tensor(0.5)).shape == (1, 6)
    assert embedding(torch.rand(7)).shape == (7, 6)
    torch.testing.assert_close(embedding(torch.full((7,), 0.5)), embedding(torch.tensor(0.5)).expand(7, 6))


def test_a_time_of_another_type_is_taken_as_it_is() -> None:
    embedding = TimeEmbedding(6)
    assert embedding(torch.tensor(0.5, dtype=torch.float64)).dtype == torch.float32


def test_the_features_are_cosines_and_sines_on_a_geometric_ladder() -> None:
    t = torch.linspace(0, 1, 9)
    found = features(TimeEmbedding(6, frequencies=5, highest=16.0), t)
    angles = t[:, None] * torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0])
    torch.testing.assert_close(found, torch.cat([angles.cos(), angles.sin()], 1), rtol=1e-5, atol=1e-5)


def test_times_one_over_the_highest_frequency_apart_are_told_apart() -> None:
    found = features(TimeEmbedding(6), torch.arange(0, 1, 1 / 200))
    distances = torch.cdist(found, found) + 10 * torch.eye(200)
    # one radian at the highest frequency alone is a distance of 2 sin(1/2) = 0.96
    assert distances.min().item() > 0.95


def test_the_frequencies_are_no_part_of_what_is_stored() -> None:
    assert "frequencies" not in TimeEmbedding(6).state_dict()


def test_a_silent_embedding_is_zero_but_learns() -> None:
    embedding = silent_embedding(6)
    output = embedding(torch.rand(5))
    assert not output.any()
    output.sum().backward()
    assert embedding.output.weight.grad is not None
    assert embedding.output.weight.grad.abs().max().item() > 0


def test_a_label_has_the_row_after_its_number_and_none_has_the_first() -> None:
    embedding = LabelEmbedding(3, 5)
    assert torch.equal(embedding(torch.tensor([-1, 2, 0])), embedding.table.weight[[0, 3, 1]])
    assert torch.equal(embedding(None), embedding(torch.tensor([-1])))


def test_fresh_labels_differ_and_no_label_is_zero() -> None:
    weight = LabelEmbedding(3, 5).table.weight
    assert not weight[0].any()
    assert torch.cdist(weight, weight).fill_diagonal_(1).min().item() > 0.01
