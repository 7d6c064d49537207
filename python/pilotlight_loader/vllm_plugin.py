"""`--load-format pilotlight` for vLLM: weights from the node's streamer, handed over while later ones are on the wire."""

from __future__ import annotations


def register() -> None:
    """Called by vLLM in every process that it starts (entry point `vllm.general_plugins`)."""
    from vllm.distributed import get_tensor_model_parallel_world_size
    from vllm.model_executor.model_loader import register_model_loader
    from vllm.model_executor.model_loader.base_loader import BaseModelLoader

    from .client import open_weights
    from .tensors import iterate

    @register_model_loader("pilotlight")
    class PilotlightModelLoader(BaseModelLoader):
        """Options: `uri` (default: the model's name), `address` and `replica_id` (default: the environment)."""

        def __init__(self, load_config):
            super().__init__(load_config)
            extra = dict(load_config.model_loader_extra_config or {})
            self._uri = extra.pop("uri", None)
            self._address = extra.pop("address", None)
            self._replica_id = extra.pop("replica_id", None)
            if extra:
                raise ValueError(f"unknown options of the pilotlight loader: {', '.join(sorted(extra))}")

        def download_model(self, model_config) -> None:
            """Nothing is downloaded ahead: the streamer has it, or fetches it."""

        def load_weights(self, model, model_config) -> None:
            # vLLM cuts slices itself, so every rank maps whole tensors; the bytes are the node's, once. One rank alone needs all
            # of each, so it goes to its device as it arrives; of several each copies only what it cut.
            source = self._uri or model_config.model
            alone = get_tensor_model_parallel_world_size() == 1
            device = next(model.parameters()).device if alone else "cpu"
            with open_weights(source, address=self._address, replica_id=self._replica_id) as lease:
                model.load_weights(iterate(lease, device))
