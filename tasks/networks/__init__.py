"""Pure torch modules: time embedding, backbones, the denoiser, the two-time generator, the moving average."""
