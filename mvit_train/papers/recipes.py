"""The published recipes as data: what the papers say, what PySlowFast's released files say, and the data sets' sizes.

MViT: arXiv 2104.11227. MViTv2: arXiv 2112.01526. A field that is None is not stated there; nothing here is guessed.
"""

from dataclasses import dataclass, replace
from typing import Any

Numbers = tuple[float, ...]
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A recipe, published or ours, field by field. None: not stated, or of no meaning beside the others.

    Args:
        section: where the recipe stands. row: the table row that gives model, clip and views.
        model: the function in mvit_train.models, with the arguments that make it another graph.
        batch_size: clips of one GPU, among which mixing takes place, repeats included; clips_per_step: of all.
        lr: (peak, clips of an optimiser step that it is for).
        start_factor, end_factor: first and last learning rate as a share of the peak.
        gradient_clip: L2 norm; 0: gradients are not clipped.
        rand_augment: timm's notation, as far as it is stated; "none": not used.
        crop_short_side: what the short side is drawn from, of a JitteredCrop.
        views: (clips, crops) of the test; a None in it is not stated.
    """

    section: str = ""
    row: str = ""
    model: str | None = None
    num_frames: int | None = None
    sampling_rate: int | None = None
    crop_size: int | None = None
    sampling: str | None = None
    optimizer: str | None = None
    betas: Numbers | None = None
    momentum: float | None = None
    batch_size: int | None = None
    clips_per_step: int | None = None
    lr: tuple[float, int] | None = None
    warmup_epochs: float | None = None
    start_factor: float | None = None
    end_factor: float | None = None
    max_epochs: int | None = None
    repeats: int | None = None
    weight_decay: float | None = None
    drop_path_rate: float | None = None
    dropout: float | None = None
    gradient_clip: float | None = None
    precision: str | None = None
    short_side: int | None = None
    rand_augment: str | None = None
    crop: str | None = None
    crop_area: Numbers | None = None
    crop_aspect: Numbers | None = None
    crop_short_side: Numbers | None = None
    flip: float | None = None
    erasing: float | None = None
    mixup_alpha: float | None = None
    cutmix_alpha: float | None = None
    label_smoothing: float | None = None
    mean: Numbers | None = None
    std: Numbers | None = None
    views: tuple[int | None, int | None] | None = None
    ensemble: str | None = None


@dataclass(frozen=True)
class DataSet:
    """A published data set; num_videos: of its training split."""

    name: str
    num_classes: int
    num_videos: int
    noun: str = "videos"


DATA_SETS = {
    "k400": DataSet("Kinetics-400", 400, 240_000),
    "k600": DataSet("Kinetics-600", 600, 383_393),
    "k700": DataSet("Kinetics-700-2020", 700, 542_352),
    "ssv2": DataSet("Something-Something V2", 174, 168_913),
    "charades": DataSet("Charades", 157, 7_985),
    "in1k": DataSet("ImageNet-1K", 1000, 1_281_167, "images"),
}


def data_set(name: str) -> DataSet | None:
    """The data set that an experiment's name begins with: k400_mvit_b -> Kinetics-400."""
    return DATA_SETS.get(name.partition("_")[0])


# What the papers share for training from scratch; both give it for Kinetics, and MViT for ImageNet too.
SCRATCH = Recipe(
    optimizer="AdamW",
    betas=(0.9, 0.999),
    weight_decay=0.05,
    crop="RandomResizedCrop",
    crop_area=(0.08, 1.0),
    crop_aspect=(3 / 4, 4 / 3),
    flip=0.5,
    erasing=0.25,
    mixup_alpha=0.8,
    cutmix_alpha=1.0,
    label_smoothing=0.1,
)
KINETICS = replace(
    SCRATCH,
    section="MViT, Sec. D.1",
    batch_size=4,
    clips_per_step=512,
    lr=(1.6e-3, 512),
    warmup_epochs=30,
    start_factor=0.01,
    end_factor=0.01,
    max_epochs=200,
    repeats=2,
    dropout=0.5,
    rand_augment="rand-m7-n4-mstd0.5-inc1",
    mean=(0.45,) * 3,
    std=(0.225,) * 3,
    views=(5, 1),
)
KINETICS_V2 = replace(KINETICS, section="MViTv2, Sec. B.4", start_factor=None)
V1_16X4: Row = dict(model="mvit_b", num_frames=16, sampling_rate=4, crop_size=224)
V1_32X3: Row = dict(model="mvit_b_32x3", num_frames=32, sampling_rate=3, crop_size=224)
V2_S: Row = dict(model="mvit_v2_s", num_frames=16, sampling_rate=4, crop_size=224)
V2_B: Row = dict(model="mvit_v2_b", num_frames=32, sampling_rate=3, crop_size=224)
V2_L: Row = dict(model="mvit_v2_l", num_frames=40, sampling_rate=3, crop_size=312)

# The papers fine-tune on Something-Something with Kinetics' augmentation, but without flips.
SSV2 = replace(
    KINETICS,
    section="MViT, Sec. D.4",
    optimizer="SGD",
    betas=None,
    momentum=0.9,
    batch_size=8,
    lr=(0.02, 512),
    warmup_epochs=None,
    start_factor=None,
    end_factor=None,
    max_epochs=100,
    repeats=1,
    weight_decay=1e-4,
    drop_path_rate=0.4,
    flip=0.0,
    views=(1, 3),
)
SSV2_V2 = replace(SSV2, section="MViTv2, Sec. B.5")
CHARADES = replace(
    KINETICS,
    section="MViT, Sec. D.3",
    optimizer="SGD",
    betas=None,
    batch_size=8,
    clips_per_step=256,
    lr=(0.6, 256),
    warmup_epochs=None,
    start_factor=None,
    end_factor=None,
    repeats=None,
    weight_decay=1e-7,
    drop_path_rate=0.45,
    dropout=None,
    mixup_alpha=0.0,
    cutmix_alpha=0.0,
    label_smoothing=None,
    views=(10, 3),
    ensemble="max",
)
IMAGES = replace(
    SCRATCH,
    section="MViT, Sec. D.5",
    row="MViT, Table 17",
    crop_size=224,
    batch_size=64,
    clips_per_step=4096,
    lr=(5e-4, 512),
    max_epochs=100,
    repeats=3,
    rand_augment="rand-m9-n6",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    views=(1, 1),
)
IMAGES_V2 = replace(
    IMAGES,
    section="MViTv2, Sec. B.2",
    row="MViTv2, Table 2",
    batch_size=32,
    clips_per_step=2048,
    lr=(2e-3, 2048),
    warmup_epochs=70,
    max_epochs=300,
    repeats=None,
    dropout=0.0,
    rand_augment="rand-m9-n6-mstd0.5-inc1",
)

K400_ROW, K600_ROW, SSV2_ROW = "MViT, Table 4", "MViT, Table 5", "MViT, Table 6"

# By experiment.
PAPERS: dict[str, Recipe] = {
    "k400_mvit_b": replace(KINETICS, **V1_16X4, row=K400_ROW, drop_path_rate=0.2),
    "k400_mvit_b_32x3": replace(KINETICS, **V1_32X3, row=K400_ROW),
    "k400_mvit_b_64x3": Recipe(
        section=K400_ROW,
        row=K400_ROW,
        model="mvit_b_64x3",
        num_frames=64,
        sampling_rate=3,
        crop_size=224,
        max_epochs=5,
        views=(3, 3),
    ),
    "k400_mvit_s": replace(KINETICS, **(V1_16X4 | dict(model="mvit_s")), row=K400_ROW),
    "k400_vit_b": replace(KINETICS, model="vit_b", num_frames=8, sampling_rate=8, crop_size=224, row=K400_ROW),
    "k400_mvit_v2_s": replace(KINETICS_V2, **V2_S, row="MViTv2, Table 10", drop_path_rate=0.2),
    "k400_mvit_v2_b": replace(KINETICS_V2, **V2_B, row="MViTv2, Table 10", drop_path_rate=0.3),
    "k400_mvit_v2_l": Recipe(
        **V2_L,
        section="MViTv2, Sec. B.4",
        row="MViTv2, Table 10",
        lr=(1.6e-5, 128),
        clips_per_step=128,
        max_epochs=30,
        weight_decay=1e-8,
        mixup_alpha=0.0,
        cutmix_alpha=0.0,
        views=(5, 3),
    ),
    "k600_mvit_b": replace(KINETICS, **V1_16X4, row=K600_ROW, drop_path_rate=0.2),
    "k600_mvit_b_32x3": replace(KINETICS, **V1_32X3, row=K600_ROW),
    "k600_mvit_b_24_32x3": replace(KINETICS, **(V1_32X3 | dict(model="mvit_b_24_32x3")), row=K600_ROW),
    "k600_mvit_v2_b": replace(KINETICS_V2, **V2_B, row="MViTv2, Table 11", drop_path_rate=0.3),
    "k700_mvit_v2_b": replace(KINETICS_V2, **V2_B, row="MViTv2, Table 12", drop_path_rate=0.3, views=(3, 3)),
    "ssv2_mvit_b": replace(SSV2, **(V1_16X4 | dict(sampling_rate=None)), row=SSV2_ROW),
    "ssv2_mvit_b_32x3": replace(SSV2, **(V1_32X3 | dict(sampling_rate=None)), row=SSV2_ROW),
    "ssv2_mvit_v2_s": replace(SSV2_V2, **(V2_S | dict(sampling_rate=None)), row="MViTv2, Table 13"),
    "ssv2_mvit_v2_b": replace(SSV2_V2, **(V2_B | dict(sampling_rate=None)), row="MViTv2, Table 13"),
    "ssv2_mvit_v2_l": replace(
        SSV2_V2,
        **(V2_L | dict(sampling_rate=None)),
        row="MViTv2, Table 13",
        batch_size=None,
        max_epochs=40,
        drop_path_rate=0.75,
        mixup_alpha=None,
        cutmix_alpha=None,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
    "charades_mvit_b": replace(CHARADES, **V1_16X4, row="MViT, Table 7"),
    "charades_mvit_b_32x3": replace(CHARADES, **V1_32X3, row="MViT, Table 7"),
    "in1k_mvit_b": replace(IMAGES, model="mvit_b_image", drop_path_rate=0.1),
    "in1k_mvit_b_24": replace(IMAGES, model="mvit_b_24_image", drop_path_rate=0.3),
    "in1k_mvit_b_24_wide_320": replace(IMAGES, model="mvit_b_24_wide_320_image", crop_size=320, drop_path_rate=0.3),
    "in1k_mvit_v2_t": replace(IMAGES_V2, model="mvit_v2_t_image", drop_path_rate=0.1),
    "in1k_mvit_v2_s": replace(IMAGES_V2, model="mvit_v2_s_image", drop_path_rate=0.1),
    "in1k_mvit_v2_b": replace(IMAGES_V2, model="mvit_v2_b_image", drop_path_rate=0.3),
    "in1k_mvit_v2_l": replace(IMAGES_V2, model="mvit_v2_l_image", drop_path_rate=0.5, weight_decay=0.1),
}
