"""The loader against a real weight streamer; `npm run test:python` starts one and names repositories by environment."""

import os
import sys
import unittest
from pathlib import Path

import safetensors.torch
import torch

import pilotlight_loader
from pilotlight_loader import DeviceError, StreamerError, load_file, open_weights, safe_open

SOURCE = os.environ["TEST_SOURCE"]
FOLDER = Path(os.environ["TEST_FOLDER"])
RANKS = 2


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
        self.assertEqual(load_file(str(path)).keys(), safetensors.torch.load_file(path).keys())

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
