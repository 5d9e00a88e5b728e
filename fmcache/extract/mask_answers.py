"""What a segmentation model answers: its encoder sees every picture once, its decoder gets every prompt of every class.

Pictures of a batch go through the encoder together; a volume of which the model sees the part around an object goes
through it once for each object, a batch at a time.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fmcache.errors import FmcacheError
from fmcache.extract.mask_options import MaskOptions, keep
from fmcache.extract.mask_prompts import BOXES, TEXTS, generator, make_prompt
from fmcache.extract.meter import Meter
from fmcache.extract.options import ExtractOptions
from fmcache.extract.registry import LoadedModel
from fmcache.store.masks import pack_mask, shape_text

PROMPTS_AT_ONCE, OF_VOLUMES = 64, 8


@dataclass(frozen=True)
class Picture:
    """A unit, read.

    Attributes
    ----------
    seen : the picture as the model sees it; of a volume its values [s, h, w]. size : of the picture.
    classes : its class map, uint8, at that size. digest : of the picture without its mask.
    """

    seen: Any
    size: tuple[int, ...]
    classes: np.ndarray
    digest: str


_View = tuple[Picture, np.ndarray]  # with what is asked for: one object, or all classes


class Answerer:
    """Runs a segmentation model; halves its batch, then its prompts at once, when the device has no memory left.

    Attributes
    ----------
    shape : of one array row: classes, prompts, masks, and the size of the logits. batch : pictures at once, now.
    most : prompts at once, now.
    """

    def __init__(
        self,
        model: LoadedModel,
        classes: Sequence[str],
        asked: MaskOptions,
        options: ExtractOptions,
        meter: Meter,
    ) -> None:
        assert model.network.segmenter is not None
        self.model, self.segmenter = model, model.network.segmenter
        self.classes, self.asked, self.options, self.meter = classes, asked, options, meter
        self.batch = options.batch
        self.volumes = bool(model.card.options.get("volumes"))
        self.most = OF_VOLUMES if self.volumes else PROMPTS_AT_ONCE
        # such a model sees the part of a volume around the object, else every object is asked of the same input
        self.around = self.volumes and model.preprocess.fit == "crop"
        self.kept = self.segmenter.masks if asked.multimask == "all" else 1
        self.shape = (len(classes), len(asked.prompts), self.kept, *self.segmenter.low)
        self._said: dict[str, torch.Tensor] = {}

    def answer(
        self,
        pictures: list[tuple[int, Picture]],
        units: Sequence[Any],
        array: np.ndarray,
        truths: list[tuple[Any, ...]],
        asked: list[tuple[Any, ...]],
    ) -> bool:
        """One batch through the model; False if it did not fit and has to be tried with a smaller one."""
        new_truths: list[Any] = []
        prompts: dict[str, list[Any]] = {kind: [] for kind in self.asked.prompts}
        views: list[_View] = []
        for row, picture in pictures:
            unit, slice = units[row]
            if not self.around:
                views.append((picture, picture.classes))
            for number, name in enumerate(self.classes):
                inside = picture.classes == number + 1
                pixels = int(inside.sum())
                if not pixels:
                    continue
                if self.around:
                    views.append((picture, inside))
                shape = shape_text(inside.shape)
                new_truths.append((unit, slice, picture.digest, name, shape, pixels, pack_mask(inside)))
                if self.around:
                    # a click lies in what the model sees, even if the object is larger
                    part = self.model.preprocess.within(inside)
                    inside = part if part.any() else inside
                for kind in self.asked.prompts:
                    random = generator(self.asked.seed, unit, slice, name, kind)
                    points = make_prompt(kind, inside, random, self.asked.rule)
                    prompts[kind].append((len(views) - 1, row, number, points))
        try:
            answers = self._model(views, prompts)
        except torch.OutOfMemoryError as error:
            self._halve(error)
            return False
        truths += new_truths
        for (kind, (_, row, number, points)), (low, iou) in answers:
            best = int(np.argmax(iou))
            chosen = low if self.kept > 1 else low[best : best + 1]
            array[row, number, self.asked.prompts.index(kind)] = keep(chosen, self.asked.logits)
            known = [float(value) for value in iou] + [None] * (3 - len(iou))
            name, text = self.classes[number], json.dumps(points.tolist(), separators=(",", ":"))
            asked.append((*units[row], name, kind, text, best, *known))
        return True

    def _model(self, views: list[_View], prompts: Mapping[str, list[Any]]) -> list[Any]:
        """[(kind, (place, row, class, points)), (logits [m, *low], iou [m])] for every prompt.

        A volume has as many views as objects: they go through the encoder in parts of the batch, too.
        """
        found: list[Any] = []
        for start in range(0, len(views), self.batch):
            here = range(start, min(start + self.batch, len(views)))
            of = {
                kind: [(place - start, *one) for place, *one in each if place in here]
                for kind, each in prompts.items()
            }
            found += self._part(views[start : here.stop], of)
        return found

    def _part(self, views: list[_View], prompts: Mapping[str, list[Any]]) -> list[Any]:
        found: list[Any] = []
        with torch.inference_mode(), self._context():
            frames, places = self._see(views)
            with self.meter.stage("model"):
                maps = self.segmenter.encode(frames)
                for kind, of in prompts.items():
                    for start in range(0, len(of), self.most):
                        part = of[start : start + self.most]
                        inside = np.stack([places(place, points) for place, _, _, points in part])
                        given = torch.from_numpy(inside).float().to(maps.device)
                        pick = maps[[place for place, *_ in part]]
                        boxes = given.flatten(1) if kind in BOXES else None
                        points = None if kind in (*BOXES, *TEXTS) else given
                        names = [self.classes[number] for _, _, number, _ in part]
                        said = [self._say(names)] if kind in TEXTS else []
                        low, iou = self.segmenter.decode(pick, points, boxes, *said)
                        masks, ious = low.float().cpu().numpy(), iou.float().cpu().numpy()
                        found += [((kind, one), (masks[i], ious[i])) for i, one in enumerate(part)]
        return found

    def _say(self, names: Sequence[str]) -> torch.Tensor:
        """Classes by name, [p, c]; a sentence goes through the text tower once."""
        words = self.segmenter.words
        assert words is not None
        for name in names:
            if name not in self._said:
                self._said[name] = words.encode(words.sentence.format(name.replace("_", " ")))
        return torch.cat([self._said[name] for name in names])

    def _see(self, views: list[_View]) -> tuple[torch.Tensor, Any]:
        """The model's input, and the function that takes points of a view into it."""
        preprocess: Any = self.model.preprocess
        with self.meter.stage("transfer"):
            if self.volumes:
                seen = [preprocess.view(picture.seen, inside) for picture, inside in views]
                frames = preprocess.batch(seen, self.options.device)
                return frames, lambda place, points: preprocess.into(points, views[place][1])
            frames = preprocess.batch([picture.seen for picture, _ in views], self.options.device)
        return frames, lambda place, points: preprocess.geometry.into(points, *views[place][0].size)

    def _context(self) -> contextlib.AbstractContextManager[Any]:
        if self.options.autocast == "fp32":
            return contextlib.nullcontext()
        kind = torch.bfloat16 if self.options.autocast == "bf16" else torch.float16
        return torch.autocast(torch.device(self.options.device).type, kind)

    def _halve(self, error: Exception) -> None:
        if self.options.device.startswith("cuda"):
            torch.cuda.empty_cache()
        if self.batch == 1 and self.most > 1:
            self.most //= 2
            return
        if self.batch == 1:
            raise FmcacheError(
                f"{self.model.card.id} does not fit into the memory of {self.options.device}, even with one prompt.",
                str(error).splitlines()[0],
                "Use a device with more memory, a smaller model, or --autocast bf16.",
            ) from None
        self.batch = max(1, self.batch // 2)
