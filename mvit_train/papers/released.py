"""The recipes of PySlowFast's released files, where they are known: what its training code would do with one file.

Its learning rate and batch are those of one machine of eight GPUs and are multiplied with the number of machines, so
that no file states the clips of a step. Mixed precision is off by default, and a file that does not set the number of
test clips takes ten. None: not known.
"""

from dataclasses import replace

from mvit_train.papers.recipes import (
    IMAGES_V2,
    KINETICS,
    KINETICS_V2,
    PAPERS,
    SSV2_V2,
    V1_16X4,
    V1_32X3,
    V2_B,
    V2_L,
    V2_S,
    Row,
)

IMAGENET_STATISTICS: Row = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

# 16 videos, so 32 clips with the repeats, at 1e-4: the paper's 1.6e-3 for 512.
KINETICS_FILES: Row = dict(
    clips_per_step=None,
    lr=(1e-4, 32),
    gradient_clip=1.0,
    precision="32-true",
    short_side=256,
    sampling="window",
    ensemble="mean",
)
KINETICS_FILE = replace(KINETICS, **KINETICS_FILES, views=(10, None))
KINETICS_V2_FILE = replace(KINETICS_V2, **KINETICS_FILES, views=None)
B_24_FILE = replace(
    KINETICS_FILE,
    **(V1_32X3 | dict(model="mvit_b_24_32x3")),
    drop_path_rate=0.3,
)
SSV2_FILE = replace(
    SSV2_V2,
    clips_per_step=None,
    warmup_epochs=3,
    precision="32-true",
    sampling="segment",
    crop="JitteredCrop",
    crop_area=None,
    crop_aspect=None,
    crop_short_side=(256, 320),
)
IMAGES_V2_FILE = replace(
    IMAGES_V2,
    clips_per_step=None,
    lr=(2.5e-4, 256),
    start_factor=4e-5,
    end_factor=4e-3,
    repeats=1,
    gradient_clip=1.0,
    precision="32-true",
)
IMAGES_FILE = replace(
    IMAGES_V2_FILE,
    section="ImageNet, MViT-B-16-Conv",
    model="mvit_b_image",
    end_factor=None,
    drop_path_rate=0.1,
)

# By experiment. None was released for the papers' other rows.
RELEASED = {
    "k400_mvit_b": replace(KINETICS_FILE, **V1_16X4, section="Kinetics-400, MViT-B 16x4", drop_path_rate=0.2),
    "k400_mvit_b_32x3": replace(B_24_FILE, section="Kinetics-400, MViT-B 32x3, which has 24 blocks"),
    "k400_mvit_v2_s": replace(KINETICS_V2_FILE, **V2_S, section="Kinetics-400, MViTv2-S 16x4", drop_path_rate=0.2),
    "k400_mvit_v2_b": replace(KINETICS_V2_FILE, **V2_B, section="Kinetics-400, MViTv2-B 32x3", drop_path_rate=0.3),
    "k600_mvit_b_24_32x3": replace(B_24_FILE, section="MViT-B 32x3, for Kinetics-400 or 600"),
    "ssv2_mvit_v2_s": replace(
        SSV2_FILE,
        **(V2_S | dict(sampling_rate=None)),
        section="Something-Something V2, MViTv2-S",
        batch_size=2,
        lr=(2.5e-3, 16),
        start_factor=1e-4 / 2.5e-3,
        end_factor=1e-6 / 2.5e-3,
        gradient_clip=0.0,
    ),
    "ssv2_mvit_v2_b": replace(
        SSV2_FILE,
        **(V2_B | dict(sampling_rate=None)),
        section="Something-Something V2, MViTv2-B",
        batch_size=2,
        lr=(1.5e-3, 16),
        start_factor=1e-4 / 1.5e-3,
        end_factor=1e-6 / 1.5e-3,
        gradient_clip=0.0,
    ),
    "ssv2_mvit_v2_l": replace(
        SSV2_FILE,
        **(V2_L | dict(sampling_rate=None)),
        **IMAGENET_STATISTICS,
        section="Something-Something V2, MViTv2-L",
        batch_size=1,
        lr=(1.25e-3, 8),
        start_factor=1e-6 / 1.25e-3,
        end_factor=1e-6 / 1.25e-3,
        max_epochs=40,
        drop_path_rate=0.75,
        mixup_alpha=0.0,
        cutmix_alpha=0.0,
        gradient_clip=2.0,
        crop_short_side=None,
    ),
    "in1k_mvit_b": IMAGES_FILE,
    **{
        f"in1k_mvit_v2_{size}": replace(
            IMAGES_V2_FILE,
            section=f"ImageNet, MViTv2-{size.upper()}",
            model=f"mvit_v2_{size}_image",
            drop_path_rate=PAPERS[f"in1k_mvit_v2_{size}"].drop_path_rate,
        )
        for size in ("t", "s", "b")
    },
}
