"""What a configuration holds at its root, field by field conf/config.yaml, and what the tasks ask of these values."""

import dataclasses
import re
from pathlib import Path
from typing import Any, Literal

from mvit_train.signatures import Node

FrameOrder = Literal[
    "forward", "shuffle", "shuffle_2", "shuffle_3", "jumble_2", "jumble_4", "reverse", "freeze", "half_rate"
]
"""What `mvit_train.temporal` makes of the frames of a clip."""

CorruptionName = Literal[
    "noise", "shot_noise", "blur", "brightness", "contrast", "darkness", "jpeg", "h264", "frame_drop", "freeze"
]
"""What `mvit_train.data.corruptions` does to the frames of a clip."""

NEED_A_MODEL = ("evaluate", "predict", "serve", "export")
"""Tasks that use a trained model: of `ckpt`, whose configuration they then take, or of `weights`."""

WHAT = {"all": "complexity"} | dict.fromkeys(("decode", "loader", "scale", "kernels"), "benchmark")
"""The task that each `what` belongs to; `model` is both's."""

FORMATS = {"export": ("safetensors", "slowfast", "torchvision", "pt2", "onnx"), "predict": ("table", "json", "csv")}
"""What a task writes by `format`; the first if none is given."""


@dataclasses.dataclass(kw_only=True)
class Clip:
    """The facts that model and data share."""

    num_frames: int
    sampling_rate: int
    crop_size: int


@dataclasses.dataclass(kw_only=True)
class Augment:
    """What training does to clips; `device` is where the crop and what comes before it are computed."""

    crop: Node
    erasing: Node | None
    mixup: Node
    device: Literal["cpu", "gpu"]


@dataclasses.dataclass(kw_only=True)
class Config:
    """The root, field by field conf/config.yaml. A `Node` is a call; a dataclass is a group of plain values."""

    task: Literal[
        "train", "evaluate", "predict", "serve", "complexity", "benchmark", "export", "doctor", "explain", "report"
    ]
    what: Literal["model", "all", "decode", "loader", "scale", "kernels"]
    name: str
    run_id: str | None
    runs: Path
    seed: int
    ckpt: Path | None
    weights: Path | None
    compile: Literal["blocks", "full", "graphs"] | None
    views: str
    frame_order: Literal["all", "card"] | FrameOrder | list[FrameOrder]
    corruptions: Literal["all"] | CorruptionName | list[CorruptionName] | None
    severities: list[int]
    early_exit: float | None
    input: Path | list[Path] | None
    output: Path | None
    format: Literal["slowfast", "torchvision", "safetensors", "pt2", "onnx", "table", "json", "csv"] | None
    top_k: int
    threshold: float | None
    timeline: bool
    hop_sec: float | None
    overlay: Path | None
    attention: Path | None
    embeddings: Path | None
    clip: Clip
    benchmark: Node
    scale: Node
    serve: Node
    model: Node
    data: Node
    augment: Augment
    optim: Node
    trainer: Node
    logger: Node
    checkpoints: Node
    module: Node

    @classmethod
    def check_arguments(cls, arguments: dict[str, Any]) -> dict[str, str]:
        """Mistakes that types do not show; see `check`."""
        mistakes = _source_mistakes(arguments)
        task, what, source = arguments.get("task"), arguments.get("what", "model"), arguments.get("input")
        if (belongs_to := WHAT.get(what, task)) != task:
            mistakes["what"] = f"is for task={belongs_to}"
        elif (
            what in ("decode", "loader") and "input" in arguments and not (isinstance(source, Path) and source.exists())
        ):
            mistakes["input"] = f"what={what} needs input=FILE, or a folder of videos"
        if (form := arguments.get("format")) is not None and form not in FORMATS.get(task or "", (form,)):
            mistakes["format"] = f"task={task} writes {', '.join(FORMATS[task or ''])}"
        if task == "report" and "input" in arguments:
            sources = source if isinstance(source, list) else [source] if source else []
            if missing := [str(path) for path in sources if not path.exists()] or ([] if sources else ["null"]):
                mistakes["input"] = f"task=report needs evaluations, folders or predictions.npz: no {missing[0]}"
        if arguments.get("top_k", 1) < 1:
            mistakes["top_k"] = "must be at least 1"
        if task == "predict":
            mistakes |= _predict_mistakes(arguments)
        mistakes |= _corruption_mistakes(arguments)
        if (margin := arguments.get("early_exit")) is not None and (margin < 0 or task != "evaluate"):
            mistakes["early_exit"] = "is a margin, at least 0" if margin < 0 else "is for task=evaluate"
        if task == "train":
            mistakes |= _shard_mistakes(arguments)
            if "forward" not in (orders := arguments.get("frame_order", "all")) and orders not in ("all", "card"):
                mistakes["frame_order"] = "a training is reported by its videos played forward: name forward, too"
        if not re.fullmatch(r"[1-9]\d*x[13]", arguments.get("views", "1x1")):
            mistakes["views"] = "must be clips x crops, with 1 or 3 crops, such as 5x1"
        return mistakes


def _predict_mistakes(arguments: dict[str, Any]) -> dict[str, str]:
    """What is wrong with the values that task=predict alone reads."""
    mistakes = {}
    if "input" in arguments and arguments["input"] is None:
        mistakes["input"] = "task=predict needs input=: a file, folder, pattern such as 'clips/*.mp4', or list of them"
    if not 0 <= (arguments.get("threshold") or 0) <= 1:
        mistakes["threshold"] = "is a score, 0 to 1"
    if (hop_sec := arguments.get("hop_sec")) is not None and hop_sec <= 0:
        mistakes["hop_sec"] = "must be more than 0 seconds"
    elif hop_sec is not None and not arguments.get("timeline", True):
        mistakes["hop_sec"] = "is for timeline=true"
    attention = arguments.get("attention")
    if attention is not None and arguments.get("timeline"):
        mistakes["attention"] = "shows the clips of `views`, not those of timeline=true"
    elif attention is not None and attention == arguments.get("overlay"):
        mistakes["attention"] = "is where the overlay goes"
    return mistakes


def _corruption_mistakes(arguments: dict[str, Any]) -> dict[str, str]:
    """What is wrong with `corruptions` and `severities`."""
    mistakes = {}
    corruptions, severities = arguments.get("corruptions"), arguments.get("severities", [1])
    orders = arguments.get("frame_order", "all")
    if not severities or not set(severities) <= {1, 2, 3, 4, 5}:
        mistakes["severities"] = "must be some of 1, 2, 3, 4, 5"
    if corruptions is not None and arguments.get("task", "evaluate") != "evaluate":
        mistakes["corruptions"] = "is for task=evaluate"
    elif corruptions == []:
        mistakes["corruptions"] = "names no corruption; null: none"
    elif corruptions is not None and orders not in ("all", "card") and "forward" not in orders:
        mistakes["corruptions"] = "compares with clean videos played forward: frame_order must have forward"
    return mistakes


def _shard_mistakes(arguments: dict[str, Any]) -> dict[str, str]:
    """What trainer.strategy=fsdp, where each process holds a share of the parameters, cannot do."""
    trainer, module = arguments.get("trainer"), arguments.get("module")
    if not isinstance(trainer, dict) or not isinstance(module, dict) or trainer.get("strategy") != "fsdp":
        return {}
    if arguments.get("compile") is not None:
        return {"compile": "is for trainer.strategy=ddp: shards are gathered between the operations of a block"}
    if module.get("ema_decay") is not None:
        return {"module.ema_decay": "is for trainer.strategy=ddp: an average of the weights is not kept in shards"}
    return {}


def _source_mistakes(arguments: dict[str, Any]) -> dict[str, str]:
    """What is wrong with `ckpt` and `weights`."""
    mistakes = {}
    ckpt, weights, task = (arguments.get(name) for name in ("ckpt", "weights", "task"))
    if ckpt is not None and not ckpt.exists():
        mistakes["ckpt"] = "does not exist"
    if weights is not None and not weights.is_file():
        mistakes["weights"] = "is what to start from; give weights=FILE" if weights.name[0] == "<" else "is no file"
    if task in NEED_A_MODEL and {"ckpt", "weights"} <= arguments.keys():
        if ckpt is None and weights is None:
            mistakes["ckpt"] = f"task={task} needs ckpt=FILE, or the folder of a run, or weights=FILE"
        elif ckpt is not None and weights is not None:
            mistakes["weights"] = f"task={task} takes ckpt or weights, not both"
    return mistakes
