"""SAM 2.1 from a folder as the hub has it, held to the model of transformers. A small configuration."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from fmcache.extract.torchvision_fix import make_torchvision_importable

    make_torchvision_importable()
    from transformers import Sam2Config, Sam2Model

    torch.manual_seed(0)
    small = {
        "model_type": "sam2_hiera_det_model",
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [32, 64, 128, 256],
        "hidden_size": 32,
        "num_attention_heads_per_stage": [1, 2, 4, 8],
        "global_attention_blocks": [3],
    }
    config = Sam2Config(vision_config={"backbone_config": small, "backbone_channel_list": [256, 128, 64, 32]})
    module = Sam2Model(config).eval()
    path = tmp_path_factory.mktemp("sam2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module.save_pretrained(path)
    return path, module


@pytest.mark.heavy
def test_equal_to_transformers(folder):
    from fmcache.extract.registry import load_model, resolve_model

    path, module = folder
    model = load_model(resolve_model("sam2-tiny"), checkpoint=path)
    picture = np.random.default_rng(0).integers(0, 256, (120, 90, 3)).astype(np.uint8)
    frame = model.preprocess.geometry
    x = model.preprocess.batch([frame.apply(picture), frame.apply(picture[::-1])], "cpu")
    places = np.array([[[10.0, 20.0]], [[80.0, 100.0]], [[40.0, 60.0]]])
    points = torch.from_numpy(frame.into(places, 120, 90)).float()
    boxes = torch.from_numpy(frame.into(np.array([[[5.0, 8.0], [60, 100]]] * 3), 120, 90)).float().flatten(1)
    segmenter = model.network.segmenter
    with torch.inference_mode():
        maps = segmenter.encode(x)[[0, 1, 1]]
        embeddings = [one[[0, 1, 1]] for one in module.get_image_embeddings(x)]
        for mine, theirs in (((points, None), {"input_points": points[:, None]}),
                             ((None, boxes), {"input_boxes": boxes[:, None]})):  # fmt: skip
            low, iou = segmenter.decode(maps, *mine)
            expected = module(image_embeddings=embeddings, multimask_output=True, **theirs)
            assert low.shape == (3, 3, *segmenter.low)
            np.testing.assert_allclose(low, expected.pred_masks[:, 0], atol=1e-4)
            np.testing.assert_allclose(iou, expected.iou_scores[:, 0], atol=1e-5)
        np.testing.assert_allclose(model.encode(x[:1]), embeddings[-1][:1].mean((2, 3)), atol=1e-5)
