"""Equal requests share a key, and others do not."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.fingerprint import canonical, fingerprint, stage_key

TEXT = st.text('ab"\u00e4', max_size=3)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
REQUESTS = st.dictionaries(TEXT, VALUES, max_size=4)


@given(REQUESTS)
def test_the_order_of_keys_does_not_matter(request_: dict[str, object]) -> None:
    backwards = dict(reversed(request_.items()))
    assert fingerprint(request_) == fingerprint(backwards)


@given(REQUESTS)
def test_a_request_that_went_through_json_keeps_its_key(request_: dict[str, object]) -> None:
    assert fingerprint(json.loads(json.dumps(request_))) == fingerprint(request_)


@given(REQUESTS, REQUESTS)
def test_requests_of_different_text_have_different_keys(one: dict[str, object], other: dict[str, object]) -> None:
    assert (fingerprint(one) == fingerprint(other)) == (canonical(one) == canonical(other))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_has_no_json_text_has_no_key(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        fingerprint({"rate": value})


def test_a_stage_key_depends_on_step_request_and_inputs_in_order() -> None:
    keys = {
        stage_key("fit", request={"steps": 1}, inputs=["a", "b"]),
        stage_key("evaluate", request={"steps": 1}, inputs=["a", "b"]),
        stage_key("fit", request={"steps": 2}, inputs=["a", "b"]),
        stage_key("fit", request={"steps": 1}, inputs=["b", "a"]),
        stage_key("fit", request={"steps": 1}, inputs=["ab"]),
    }
    assert len(keys) == 5
    assert stage_key("fit", request={"steps": 1}, inputs=("a", "b")) in keys
