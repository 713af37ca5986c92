"""`task=explain`: the recipe in words and numbers, and how it differs from the paper's and PySlowFast's.

Nothing is read but manifests, where `data.root` is given, and nothing is computed: the model is on the meta device.
"""

import textwrap
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np

from mvit_train.checkup.findings import WIDTH
from mvit_train.complexity import ACTIVATIONS, operations
from mvit_train.data.clip_augment import ClipAugment
from mvit_train.data.rand_augment import OPS, PROBABILITY, RandAugment
from mvit_train.data.transforms import ClipTransform, JitteredCrop, RandomResizedCrop
from mvit_train.data.views import clip_times
from mvit_train.models import MViT
from mvit_train.optim import parameter_groups
from mvit_train.papers.differences import differences, not_stated
from mvit_train.papers.header import Header
from mvit_train.papers.recipes import PAPERS
from mvit_train.papers.released import RELEASED
from mvit_train.papers.training_plan import NUM_CLASSES, PREDICTED_CLIPS_PER_SEC, TrainingPlan

EXAMPLE_SEC, EXAMPLE_FPS = 10, 30
SMALL_GFLOPS = 1.0  # how fast such models run has little to do with multiply-adds
MAX_NUMBERS = 16

Line = tuple[str, str]


def run(cfg) -> None:
    """Prints the screen for what `cfg` would train."""
    plan = TrainingPlan(cfg)
    print(screen(plan, view_gflops(plan.model)))


def view_gflops(model: MViT) -> float:
    """1e9 multiply-adds and LayerNorm of one view, as the papers count."""
    counts = operations(model.eval())
    return sum(flops for operation, flops in counts.items() if operation != ACTIVATIONS) / 1e9


def screen(plan: TrainingPlan, gflops: float) -> str:
    """The text. gflops: of one view."""
    header = Header.read(plan.name)
    sections = {
        "Model": about_model(plan, header, gflops),
        "Data": about_data(plan),
        "Augmentation": enumerate_lines(augmentation(plan)),
        "Optimiser": about_optimiser(plan),
        "The whole run": about_run(plan, header, gflops),
        **comparisons(plan),
    }
    parts = [f"mvit_train explain: {plan.name}"]
    for title, lines in sections.items():
        parts.append("\n".join([title, *(show(*line) for line in lines)]))
    return "\n\n".join(parts)


def show(key: str, text: str) -> str:
    """A line, wrapped."""
    start = f"  {key:14} " if key else "  "
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=start,
        subsequent_indent=" " * max(len(start), 4),
        break_long_words=False,
        break_on_hyphens=False,
    )


def about_model(plan: TrainingPlan, header: Header, gflops: float) -> Iterator[Line]:
    num_params = sum(parameter.numel() for parameter in plan.model.parameters())
    size = " x ".join(map(str, plan.model.input_size))
    classes = f"{plan.num_classes} classes" if plan.num_classes else f"{NUM_CLASSES} classes, for want of data"
    cost = f"{gflops:.1f}" if gflops >= 1 else f"{gflops:.2g}"
    yield "model", f"{plan.recipe.model}, {classes}: {num_params:,} parameters, {cost} G multiply-adds a view"
    yield "input", f"{size}; mean {_numbers(plan.recipe.mean)}, standard deviation {_numbers(plan.recipe.std)}"
    yield "drop path", f"up to {plan.recipe.drop_path_rate:g} in the last block; head dropout {plan.recipe.dropout:g}"
    if plan.settings["weights"]:
        yield "starts from", str(plan.settings["weights"])
    elif header.starts_from:
        yield "starts from", f"{header.starts_from}: to be given as weights=FILE; none is given"
    else:
        yield "starts from", "random weights"
    if stages := plan.settings["module"].get("frozen_stages"):
        frozen = sum(parameter.numel() for parameter in plan.model.parameters() if not parameter.requires_grad)
        yield "frozen", f"the embeddings and the first {stages} stages: {frozen:,} parameters (module.frozen_stages)"


def about_data(plan: TrainingPlan) -> Iterator[Line]:
    yield "data", _videos(plan)
    data = plan.data
    if data.num_frames == 1:
        yield "clip", "one frame"
        return
    rate = f"{data.target_fps:g} a second" if data.target_fps else "the video's own rate"
    kinds = {
        "window": f"spread evenly over {data.num_frames * data.sampling_rate} at {rate}",
        "dense": f"every {data.sampling_rate}th at {rate}",
        "segment": f"one from each {data.num_frames}th of the whole video",
    }
    yield "clip", f"{data.num_frames} frames, {kinds[data.sampling]} (data.sampling={data.sampling})"
    training, test = frame_numbers(plan, None)[0], frame_numbers(plan, plan.views.clips)
    begins = "" if len(test) == 1 else f"; {len(test)} clips begin at {_numbers([clip[0] for clip in test])}"
    yield "frames", f"of a video of {EXAMPLE_SEC} s at {EXAMPLE_FPS} a second:"
    yield "  in training", f"{_numbers(training)}, for example"
    yield "  in the test", f"{_numbers(test[0])}{begins}"


def _videos(plan: TrainingPlan) -> str:
    data = plan.data
    if data.root is not None:
        known = f" ({found})" if (found := data.labels.known()) else ""
        return (
            f"{len(data.splits['train']):,} videos for training, {len(data.splits['val']):,} for validation, "
            f"{len(data.labels)} classes{known}, below {data.root}"
        )
    if data.built_in:
        counts = f"{data.built_in.num_train:,} for training, {data.built_in.num_val:,} for validation"
        return f"{data.built_in.NOUN}, built in: {counts}"
    if plan.published is None:
        return "not known: no data.root, and the name begins like none of the published data sets"
    published = plan.published
    pilot = data.classes is not None or data.max_videos_per_class is not None
    return (
        f"no data.root; {published.name} as published: {published.num_videos:,} {published.noun} to train with, "
        f"{published.num_classes} classes" + ("; the pilot run's choice is not counted" if pilot else "")
    )


def frame_numbers(plan: TrainingPlan, num_clips: int | None) -> list[list[int]]:
    """Which frames of the example the samplers take, clip by clip; num_clips None: in training."""
    data, fps = plan.data, Fraction(EXAMPLE_FPS)
    sampler = data.clip_sampler(num_clips)
    rng = np.random.default_rng(data.seed)
    clips = clip_times(sampler, duration=Fraction(EXAMPLE_SEC), fps=fps, num_frames=data.num_frames, rng=rng)
    return [[int(time * fps) for time in clip] for clip in clips]


def augmentation(plan: TrainingPlan) -> Iterator[str]:
    """What is done to a training clip, in order."""
    data, mixup = plan.data, plan.mixup
    if data.repeats > 1:
        yield f"{data.repeats} copies of each decoded clip, augmented apart, side by side in the batch"
    yield from _changes(data.transform, plan.recipe.rand_augment or "")
    yield "normalise"
    if data.erasing:
        yield f"erase a box in all frames with probability {data.erasing.probability:g}, fill it with noise"
    modes = {"mixup": mixup.mixup_alpha, "cutmix": mixup.cutmix_alpha}
    used = [f"{mode} (alpha {alpha:g})" for mode, alpha in modes.items() if alpha > 0]
    yield f"mix the {data.batch_size} clips of a device's batch: {' or '.join(used)}" if used else "no mixing"
    yield f"label smoothing {mixup.label_smoothing:g}"


def _changes(transform: ClipTransform, policy: str) -> Iterator[str]:
    if not isinstance(transform, ClipAugment):
        yield _crop(transform)
        return
    pixels = transform.pixels
    if isinstance(pixels, RandAugment):
        drawn = f"{pixels.num_ops} of {len(OPS)} operations, each with probability {PROBABILITY:g}"
        change = f"RandAugment {policy}: {drawn} at level {pixels.level:g} +- {pixels.level_std:g} of 10"
    else:
        change = f"colour jitter: {', '.join(f'{name} {value:g}' for name, value in pixels.ranges.items())}"
    if transform.short_side is not None:
        yield f"scale to a short side of {transform.short_side}"
    yield from (_crop(transform.crop), change) if transform.pixels_after_crop else (change, _crop(transform.crop))


def _crop(crop: ClipTransform) -> str:
    if isinstance(crop, RandomResizedCrop):
        how = "area {:.3g} to {:.3g}, aspect {:.3g} to {:.3g}, ".format(*crop.area, *crop.aspect) + crop.interpolation
        return f"random resized crop to {crop.crop_size}: {how}; flip with probability {crop.flip:g}"
    if isinstance(crop, JitteredCrop):
        how = f"from a short side of {crop.short_side[0]} to {crop.short_side[1]}"
        return f"random crop of {crop.crop_size} {how}; flip with probability {crop.flip:g}"
    return type(crop).__name__


def about_optimiser(plan: TrainingPlan) -> Iterator[Line]:
    optim, processes, recipe = plan.optim, plan.processes, plan.recipe
    extra = f"betas {_numbers(recipe.betas)}" if recipe.betas else f"momentum {recipe.momentum:g}"
    yield "optimiser", f"{recipe.optimizer}, {extra}; precision {recipe.precision}"
    clips, repeats = plan.clips_per_step, plan.data.repeats
    product = f"{plan.data.batch_size} (data.batch_size) x {processes.devices} (trainer.devices)"
    product += f" x {processes.num_nodes} (num_nodes)"
    accumulated = f" x {processes.accumulate} (accumulate_grad_batches)" if processes.accumulate > 1 else ""
    copies = f"; {clips // repeats} videos, {repeats} copies each" if repeats > 1 else ""
    yield "clips a step", f"{clips} = {product}{accumulated}{copies}"
    yield "peak", f"{plan.peak_lr:.4g}: optim.lr={optim.lr:g} is for {optim.lr_batch} clips, scaled linearly"
    yield "learning rate", _course(plan)
    if optim.layer_decay != 1:
        yield "layer decay", f"{optim.layer_decay:g} from the head to each block before it; the peak is the head's"
    yield "weight decay", _decay_sets(plan)
    clip = f"clipped to a norm of {recipe.gradient_clip:g}" if recipe.gradient_clip else "not clipped"
    average = plan.settings["module"].get("ema_decay")
    yield "gradients", f"{clip}; " + (f"weights averaged, decay {average:g}" if average else "weights not averaged")


def _course(plan: TrainingPlan) -> str:
    warmup, end = plan.optim.warmup_epochs, plan.max_epochs
    rise = f"{plan.lr(0):.3g} at epoch 0, linearly to {plan.lr(warmup):.3g} at {warmup:g}" if warmup else "no warm-up"
    if warmup > end:
        return f"{rise}: a warm-up longer than the {end} epochs, which training refuses"
    half = f"{plan.lr(end / 2):.3g} at {end / 2:g}"
    return f"{rise}; then a half-cosine, {half}, to {plan.lr(end):.3g} at {end}"


def _decay_sets(plan: TrainingPlan) -> str:
    decay = plan.optim.weight_decay
    groups = parameter_groups(plan.model, max(decay, 1e-12), plan.optim.layer_decay, plan.peak_lr)
    sets = {kept: [p for g in groups if bool(g["weight_decay"]) == kept for p in g["params"]] for kept in (True, False)}
    counts = [f"{len(found)} tensors of {sum(p.numel() for p in found):,}" for found in sets.values()]
    return f"{decay:g} on {counts[0]} parameters, 0 on {counts[1]} (one-dimensional ones and biases)"


def about_run(plan: TrainingPlan, header: Header, gflops: float) -> Iterator[Line]:
    if plan.num_steps is None:
        yield "length", f"{plan.max_epochs} epochs; how many steps is not known without the data"
    else:
        yield "length", f"{plan.max_epochs} epochs x {plan.steps_per_epoch:,} steps: {plan.num_steps:,} steps"
        yield "clips in all", f"{plan.num_clips:,}"
    yield "GPU-hours", _hours(plan, gflops)
    module = plan.settings["module"]
    if patience := module.get("patience"):
        yield "ends early", f"after {patience} validations in a row without a new best one (module.patience)"
    yield "evaluation", f"{plan.views} views a video (clips x crops), scores combined by the {plan.recipe.ensemble}"
    if videos := module.get("linear_probe"):
        yield "compared", f"with a linear probe of the start's frozen features, at most {videos:,} training videos"
    file = f"conf/experiment/{plan.name}.yaml"
    yield "expected", f"{header.expected} ({file}, as it is)" if header.expected else f"not known: there is no {file}"


def _hours(plan: TrainingPlan, gflops: float) -> str:
    hours = plan.gpu_hours(gflops)
    if hours is None:
        return "not predicted: the data is not known"
    if gflops < SMALL_GFLOPS:
        return f"not predicted: at {gflops:.2g} G a view, multiply-adds do not tell how fast a GPU is"
    low, high = (f"{float(f'{value:.2g}'):,g}" for value in hours)
    rates = "{} to {}".format(*PREDICTED_CLIPS_PER_SEC)
    return (
        f"{low} to {high} of one H200, predicted, not measured: from {rates} clips/s of MViT-B 16x4 in eager bf16, "
        "scaled by multiply-adds"
    )


def comparisons(plan: TrainingPlan) -> dict[str, list[Line]]:
    """Differences from the paper's recipe and from PySlowFast's, by heading."""
    ours, paper, released = plan.recipe, PAPERS.get(plan.name), RELEASED.get(plan.name)
    if paper is None:
        return {"Differences": [("", f"{plan.name} has no published recipe to compare with")]}
    unstated = ("", f"not stated there: {', '.join(not_stated(ours, paper))}")
    found = {f"Differences from the paper ({paper.section})": [*_listed(differences(ours, paper, "paper")), unstated]}
    if released is None:
        return found | {"Differences from PySlowFast's released config": [("", "none is known for this experiment")]}
    title = f"Differences from PySlowFast's released config ({released.section})"
    return found | {title: _listed(differences(ours, released, "PySlowFast"))}


def _listed(lines: Sequence[str]) -> list[Line]:
    return [("", line) for line in lines] or [("", "none")]


def enumerate_lines(lines: Iterator[str]) -> list[Line]:
    return [("", f"{i}. {line}") for i, line in enumerate(lines, 1)]


def _numbers(values: Sequence[float] | None) -> str:
    """0 4 8 12 ..., the first and last of many."""
    words = [f"{value:.3g}" if isinstance(value, float) else str(value) for value in values or ()]
    return " ".join(words if len(words) <= MAX_NUMBERS else [*words[: MAX_NUMBERS - 4], "...", *words[-3:]])
