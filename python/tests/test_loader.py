"""The loader against a real weight streamer; `npm run test:python` starts one and names repositories by environment."""

import os
import sys
import unittest
from pathlib import Path

import safetensors.torch
import torch

import pilotlight_loader
from pilotlight_loader import DeviceError, StreamerError, load_file, open_weights, safe_open
from pilotlight_loader.tensors import DTYPES

SOURCE = os.environ["TEST_SOURCE"]
FOLDER = Path(os.environ["TEST_FOLDER"])
RANKS = 2
# Beside the others' model: one tensor of every dtype that PyTorch has.
DTYPES_SOURCE = os.environ["TEST_DTYPES_SOURCE"]
DTYPES_FILE = Path(os.environ["TEST_DTYPES_FOLDER"]) / "model.safetensors"


def reference() -> dict[str, torch.Tensor]:
    tensors = {}
    for path in sorted(FOLDER.glob("*.safetensors")):
        tensors.update(safetensors.torch.load_file(path))
    return tensors


class LoadFile(unittest.TestCase):
    def test_gives_what_safetensors_gives(self):
        ours, theirs = load_file(SOURCE), reference()
        self.assertEqual(ours.keys(), theirs.keys())
        for name, tensor in theirs.items():
            self.assertEqual(ours[name].dtype, tensor.dtype, name)
            self.assertTrue(torch.equal(ours[name], tensor), name)

    def test_tensors_may_be_written_to_and_others_do_not_see_it(self):
        name, tensor = next(iter(load_file(SOURCE).items()))
        tensor.zero_()
        self.assertTrue(torch.equal(load_file(SOURCE)[name], reference()[name]))

    def test_a_path_goes_to_safetensors_itself(self):
        path = next(FOLDER.glob("*.safetensors"))
        for same in (path, str(path)):
            self.assertEqual(load_file(same).keys(), safetensors.torch.load_file(path).keys())
        with self.assertRaises(FileNotFoundError):
            load_file("not-there.safetensors")
        with self.assertRaises(TypeError):
            load_file(path, rank=1, ranks=2)

    def test_every_dtype_and_shape_is_what_safetensors_gives(self):
        numbers = torch.arange(256, dtype=torch.uint8)
        written = {}
        for name, dtype in DTYPES.items():
            values = numbers % 2 if dtype == torch.bool else numbers.clone()
            written[f"{name}.table"] = values.view(dtype).view(2, -1)
            written[f"{name}.none"] = torch.empty((0, 4), dtype=dtype)
        safetensors.torch.save_file(written, DTYPES_FILE, metadata={"made": "for a test"})
        theirs, ours = safetensors.torch.load_file(DTYPES_FILE), load_file(DTYPES_SOURCE)
        self.assertEqual(ours.keys(), theirs.keys())
        self.assertEqual(len(DTYPES), len(safetensors.torch._TYPES) + 2)
        with safe_open(DTYPES_SOURCE) as weights, safetensors.safe_open(DTYPES_FILE, "pt") as plain:
            self.assertEqual(weights.metadata(), plain.metadata())
            self.assertEqual(weights.offset_keys(), plain.offset_keys())
            for name, tensor in theirs.items():
                self.assertEqual((ours[name].dtype, ours[name].shape), (tensor.dtype, tensor.shape), name)
                if tensor.numel() > 0:
                    self.assertTrue(torch.equal(ours[name].view(torch.uint8), tensor.view(torch.uint8)), name)
                for get in ("get_shape", "get_dtype"):
                    self.assertEqual(getattr(weights.get_slice(name), get)(), getattr(plain.get_slice(name), get)(), name)

    def test_floats_arrive_converted_as_pytorch_rounds_them(self):
        random = torch.Generator().manual_seed(1)
        wide = torch.randn(100_003, generator=random) * torch.logspace(-45, 39, 100_003)
        tensors = {"F64": wide.double(), "F32": wide, "F16": wide.half(), "BF16": wide.bfloat16(), "I32": wide.int()}
        safetensors.torch.save_file(tensors, DTYPES_FILE)
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            ours = load_file(DTYPES_SOURCE, dtype=dtype)
            for name, tensor in tensors.items():
                expected = tensor if name == "I32" else tensor.to(dtype)
                self.assertEqual(ours[name].dtype, expected.dtype)
                self.assertTrue(torch.equal(ours[name].nan_to_num(), expected.nan_to_num()), f"{name} as {dtype}")
                self.assertTrue(torch.equal(ours[name].isnan(), expected.isnan()), f"{name} as {dtype}")
            plain = load_file(DTYPES_FILE, dtype=dtype)
            self.assertTrue(torch.equal(plain["F32"].nan_to_num(), ours["F32"].nan_to_num()))

    def test_tensors_come_in_the_order_that_is_asked_for(self):
        with open_weights(SOURCE, order=["model.norm.weight", "model.layers.2."], in_order=True) as lease:
            names = [ready.name for ready in lease]
            first = [name for name in lease.tensor_names if name.startswith("model.layers.2.")]
        self.assertEqual(names[: 1 + len(first)], ["model.norm.weight", *first])

    def test_the_memory_outlives_the_lease(self):
        with safe_open(SOURCE) as weights:
            tensors = {name: weights.get_tensor(name) for name in weights.keys()}
        for name, tensor in reference().items():
            self.assertTrue(torch.equal(tensors[name], tensor), name)


class SafeOpen(unittest.TestCase):
    def test_tensors_by_name_slices_and_keys(self):
        theirs = reference()
        name = "model.layers.0.mlp.down_proj.weight"
        with safe_open(SOURCE, framework="pt") as weights:
            self.assertTrue(torch.equal(weights.get_tensor(name), theirs[name]))
            self.assertEqual(weights.get_slice(name).get_shape(), list(theirs[name].shape))
            self.assertTrue(torch.equal(weights.get_slice(name)[:, 1:3], theirs[name][:, 1:3]))
            self.assertEqual(weights.keys(), sorted(theirs))
            with self.assertRaises(KeyError):
                weights.get_tensor("none")

    def test_ranks_together_have_the_tensor(self):
        theirs = reference()
        ranks = [load_file(SOURCE, rank=rank, ranks=RANKS) for rank in range(RANKS)]
        for name, dim in (("self_attn.q_proj", 0), ("self_attn.o_proj", 1), ("mlp.up_proj", 0), ("mlp.down_proj", 1)):
            full = f"model.layers.0.{name}.weight"
            joined = torch.cat([rank[full] for rank in ranks], dim=dim)
            self.assertTrue(torch.equal(joined, theirs[full]), full)
        norm = "model.norm.weight"
        self.assertTrue(all(torch.equal(rank[norm], theirs[norm]) for rank in ranks))


class Failures(unittest.TestCase):
    def test_what_is_not_there_is_told_by_name_with_a_remedy(self):
        with self.assertRaises(StreamerError) as caught:
            open_weights("file:///nowhere")
        self.assertEqual(caught.exception.code, "NOT_FOUND")
        self.assertIn("file:///nowhere", str(caught.exception))

    @unittest.skipIf(torch.cuda.is_available(), "this machine has a device")
    def test_a_device_that_is_not_there_is_a_clear_error(self):
        with self.assertRaises(DeviceError) as caught:
            load_file(SOURCE, device="cuda:0")
        self.assertIn("CUDA", str(caught.exception))

    def test_no_streamer_is_a_clear_error(self):
        with self.assertRaises(StreamerError) as caught:
            open_weights(SOURCE, address="127.0.0.1:1")
        self.assertIn("PILOTLIGHT_WEIGHT_STREAMER", str(caught.exception))


if __name__ == "__main__":
    print(f"torch {torch.__version__}, loader {pilotlight_loader.__file__}", file=sys.stderr)
    unittest.main()
