"""Synthetic corpora whose classes differ by a known cause, to test a comparison of models.

A scenario defines how its classes differ: in the actor's colour, the place behind it, its path, or the time
at which its colour shows. It may also plant faults of the data, such as wrong labels. It lists the verdicts
(answers to questions such as "does the model need frame order?") that a comparison should reach on such a
corpus. Everything else is random in the same way for all classes. `tools.scenario_clips` renders
the clips, `tools.make_demo_videos --scenario=…` writes them as videos.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

from tools.actor_paths import Path, any_of_four, circle, fast, flicker, rise, sink, slow, slow_flicker
from ucf50_tfrecord.errors import expect

# RGB, 0 to 255. The colours are far from each other and from any background.
ACTOR_COLORS = {"Red": (230, 40, 40), "Green": (40, 205, 60), "Blue": (50, 70, 240), "Yellow": (240, 220, 50)}
# Tint and stripes of the backgrounds that can mark a class. The stripes' slopes along x and y are in radians
# per pixel. No stripes are oblique, so horizontally flipped clips keep their class.
CLASS_PLACES = {
    "Court": ((135, 95, 55), (0.55, 0.0)),
    "Field": ((60, 125, 65), (0.0, 0.55)),
    "Pool": ((55, 95, 140), (0.25, 0.0)),
    "Track": ((130, 65, 115), (0.0, 0.25)),
}
# The order-blind control and the sequence model that are compared unless a scenario names others, by recipe.
MODELS = ("frame_pool", "lstm")
Answer = Literal["yes", "no", "cannot tell"]  # of a verdict, as evaluation.verdicts.Answer


@dataclasses.dataclass(frozen=True)
class Traits:
    """The marks by which a class of a scenario can be recognised."""

    color: tuple[int, int, int] | None = None  # of the actor; None draws a random colour for each group
    background: tuple | None = None  # as in CLASS_PLACES; None draws a random background for each group
    path: Path = circle
    # When the actor shows its colour: "always", or in one quarter of the clip: the first ("start"), the one about
    # the middle, or the last ("end"). In the other frames the actor is grey.
    when: Literal["always", "start", "middle", "end"] = "always"


@dataclasses.dataclass(frozen=True)
class Scenario:
    """A synthetic corpus whose classes differ by a known ("planted") cause, and the right verdicts about it.

    description: one sentence on how the classes differ.
    classes: dictionary from class name to the class's traits.
    yes, no: kinds of verdict, keys of evaluation.verdicts.KINDS, by their right answer. Kinds whose right answer
      is not known are left out.
    cannot_tell: kinds of verdict to which both answers are wrong, because the trainings are too short.
    recording_backgrounds: whether each recording (a class's clips in one group) has its own background.
    true_colors: fraction of recordings that show their class's colour; the others show a random colour.
    wrong_labels: fraction of clips that show another class than their label says.
    imbalance: number of clips of the first class for each clip of another class.
    copied_groups: whether groups are wrong: each group of even number shows the clips of the group before it.
      The audit of near-duplicates must find that; in other corpora it must find none.
    models: recipes of the compared models: the order-blind control and the sequence model. A single recipe is
      compared with itself, in trainings with other seeds.
    epochs: dictionary from a model to the number of epochs of its trainings, if it is not the usual number.
    ahead: the model that is ahead where models_differ is "yes"; None for the sequence model.
    """

    description: str
    classes: dict[str, Traits]
    yes: str = ""
    no: str = ""
    cannot_tell: str = ""
    recording_backgrounds: bool = False
    true_colors: float = 1.0
    wrong_labels: float = 0.0
    imbalance: int = 1
    copied_groups: bool = False
    models: tuple[str, ...] = MODELS
    epochs: Mapping[str, int] = dataclasses.field(default_factory=dict)
    ahead: str | None = None

    @property
    def truth(self) -> dict[str, Answer]:
        """A dictionary from the kind of a verdict to its right answer."""
        answers: dict[Answer, str] = {"yes": self.yes, "no": self.no, "cannot tell": self.cannot_tell}
        return {kind: answer for answer, kinds in answers.items() for kind in kinds.split()}

    @property
    def sequence_model(self) -> str:
        return self.models[-1]

    @property
    def control(self) -> str | None:
        """The order-blind control; None if one recipe is compared with itself."""
        return None if self.is_one_recipe else self.models[0]

    @property
    def is_one_recipe(self) -> bool:
        """Whether a recipe is compared with itself."""
        return len(self.models) == 1

    def num_clips(self, class_name: str, clips: int) -> int:
        """Returns a class's number of clips per group, if classes that are not frequent have `clips`."""
        return clips * self.imbalance if class_name == next(iter(self.classes)) else clips

    def __post_init__(self) -> None:
        expect(len(self.classes) >= 2, "at least 2 classes", classes=list(self.classes))
        for name in ("true_colors", "wrong_labels"):
            expect(0 <= getattr(self, name) <= 1, "a fraction from 0 to 1", **{name: getattr(self, name)})
        expect(self.imbalance >= 1, "an imbalance of at least 1", imbalance=self.imbalance)
        expect(len(self.models) in (1, 2), "1 or 2 models", models=self.models)
        known = {*self.epochs, *([self.ahead] if self.ahead else [])}
        expect(known <= {*self.models}, f"models out of {', '.join(self.models)}", models=sorted(known))
        answers = [self.yes, self.no, self.cannot_tell]
        kinds = [kind for answer in answers for kind in answer.split()]
        repeated = sorted({kind for kind in kinds if kinds.count(kind) > 1})
        expect(not repeated, "one right answer for each kind of verdict", repeated=repeated)
        marked = any(traits.background is not None for traits in self.classes.values())
        expect(
            not (marked and self.recording_backgrounds),
            "backgrounds of either classes or recordings, not both",
        )


def _crossed(marks: dict[str, Traits], *paths: Path) -> dict[str, Traits]:
    """Returns the traits of one class for each combination of a mark and a path, by class name."""
    return {
        name + path.__name__.title(): dataclasses.replace(mark, path=path)
        for name, mark in marks.items()
        for path in paths
    }


_COLORS = {name: Traits(color=color) for name, color in ACTOR_COLORS.items()}
_PLACES = {name: Traits(background=place) for name, place in CLASS_PLACES.items()}
_TWO_COLORS = {name: _COLORS[name] for name in ("Red", "Blue")}
_TWO_PLACES = {name: _PLACES[name] for name in ("Field", "Pool")}
_UNMARKED = {name: Traits() for name in ("Alpha", "Beta", "Gamma", "Delta")}
_RISE_OR_SINK = {"Rise": Traits(path=rise), "Sink": Traits(path=sink)}
_SLOW_OR_FAST = {"Slow": Traits(path=slow), "Fast": Traits(path=fast)}
# The verdicts that rest on different trainings. They must not tell trainings of one recipe from each other.
_BETWEEN_TRAININGS = "needs_order needs_several_frames recognises_recording models_differ"

SCENARIOS: dict[str, Scenario] = {
    "nothing": Scenario(
        "The classes do not differ.",
        _UNMARKED,
        no="above_chance appearance_suffices needs_order uses_direction needs_several_frames "
        "uses_background needs_full_rate evidence_at_start evidence_at_end recognises_recording "
        "models_differ",
    ),
    "appearance": Scenario(
        "Each class has an actor of its own colour.",
        _COLORS,
        yes="above_chance appearance_suffices",
        no="needs_order uses_direction needs_several_frames uses_background needs_full_rate "
        "evidence_at_start evidence_at_end recognises_recording",
    ),
    "background": Scenario(
        "Each class is recorded in a place of its own.",
        _PLACES,
        yes="above_chance appearance_suffices uses_background",
        no="needs_order uses_direction needs_several_frames needs_full_rate "
        "evidence_at_start evidence_at_end recognises_recording",
    ),
    "leak": Scenario(
        "The classes do not differ, but each recording has a place of its own.",
        _UNMARKED,
        yes="recognises_recording",
        no="above_chance appearance_suffices needs_order uses_direction needs_full_rate "
        "models_differ evidence_at_start evidence_at_end",
        recording_backgrounds=True,
    ),
    "order": Scenario(
        "One class shows the other's frames backwards.",
        _RISE_OR_SINK,
        yes="above_chance needs_order uses_direction needs_several_frames models_differ",
        no="appearance_suffices uses_background needs_full_rate",
    ),
    "speed": Scenario(
        "The actor passes the same positions slowly in one class and fast in the other.",
        _SLOW_OR_FAST,
        yes="above_chance needs_order needs_several_frames models_differ",
        no="appearance_suffices uses_direction uses_background",
    ),
    "full_rate": Scenario(
        "The classes differ only between neighbouring frames: at half the frame rate they are equal.",
        {"Flicker": Traits(path=flicker), "SlowFlicker": Traits(path=slow_flicker)},
        yes="above_chance needs_order needs_several_frames needs_full_rate models_differ",
        no="appearance_suffices",
    ),
    "start": Scenario(
        "Each class has an actor of its own colour, which shows in the first quarter of the frames.",
        {name: dataclasses.replace(mark, when="start") for name, mark in _COLORS.items()},
        yes="above_chance appearance_suffices evidence_at_start",
        no="needs_order uses_background needs_full_rate evidence_at_end",
    ),
    "end": Scenario(
        "Each class has an actor of its own colour, which shows in the last quarter of the frames.",
        {name: dataclasses.replace(mark, when="end") for name, mark in _COLORS.items()},
        yes="above_chance appearance_suffices evidence_at_end",
        no="needs_order uses_background needs_full_rate evidence_at_start",
    ),
    "appearance_order": Scenario(
        "Two colours, each of which rises in one class and sinks in another.",
        _crossed(_TWO_COLORS, rise, sink),
        yes="above_chance appearance_suffices needs_order uses_direction needs_several_frames models_differ",
        no="uses_background needs_full_rate",
    ),
    "appearance_speed": Scenario(
        "Two colours, each of which moves slowly in one class and fast in another.",
        _crossed(_TWO_COLORS, slow, fast),
        yes="above_chance appearance_suffices needs_order needs_several_frames models_differ",
        no="uses_direction uses_background",
    ),
    "background_order": Scenario(
        "Two places, in each of which the actor rises in one class and sinks in another.",
        _crossed(_TWO_PLACES, rise, sink),
        yes="above_chance appearance_suffices needs_order uses_direction needs_several_frames "
        "uses_background models_differ",
        no="needs_full_rate",
    ),
    "leak_order": Scenario(
        "The actor rises in two classes and sinks in two, and each recording has a place of its own.",
        _crossed({"Alpha": Traits(), "Beta": Traits()}, rise, sink),
        yes="above_chance needs_order uses_direction needs_several_frames recognises_recording models_differ",
        no="appearance_suffices",
        recording_backgrounds=True,
    ),
    "appearance_leak": Scenario(
        "Six recordings in ten show their class's colour, the others a random one; each has its own place.",
        _COLORS,
        yes="above_chance appearance_suffices recognises_recording",
        no="needs_order uses_direction needs_full_rate evidence_at_start evidence_at_end",
        recording_backgrounds=True,
        true_colors=0.6,
    ),
    "color_only": Scenario(
        "Each class has an actor of its own colour, whose path is drawn anew for each clip.",
        {name: dataclasses.replace(mark, path=any_of_four) for name, mark in _COLORS.items()},
        yes="above_chance appearance_suffices",
        no="needs_order uses_direction needs_several_frames uses_background needs_full_rate "
        "evidence_at_start evidence_at_end recognises_recording",
    ),
    "middle": Scenario(
        "Each class has an actor of its own colour, which shows in the quarter of the frames about the middle.",
        {name: dataclasses.replace(mark, when="middle") for name, mark in _COLORS.items()},
        yes="above_chance appearance_suffices",
        no="needs_order uses_background needs_full_rate evidence_at_start evidence_at_end",
    ),
    # Order tells the classes apart, but a model can do without it.
    "color_or_order": Scenario(
        "One class is red and rises, the other is blue and sinks: colour and order each suffice.",
        {
            "RedRise": dataclasses.replace(_COLORS["Red"], path=rise),
            "BlueSink": dataclasses.replace(_COLORS["Blue"], path=sink),
        },
        yes="above_chance appearance_suffices",
        no="needs_order needs_several_frames uses_background needs_full_rate recognises_recording",
    ),
    "imbalance": Scenario(
        "Each class has an actor of its own colour, and one class has six times as many clips as the other.",
        _TWO_COLORS,
        yes="above_chance appearance_suffices",
        no="needs_order uses_direction needs_several_frames uses_background needs_full_rate "
        "evidence_at_start evidence_at_end recognises_recording",
        imbalance=6,
    ),
    "wrong_labels": Scenario(
        "Each class has an actor of its own colour, but three clips in ten are labelled as another class.",
        _COLORS,
        yes="above_chance appearance_suffices",
        no="needs_order uses_direction needs_several_frames uses_background needs_full_rate "
        "evidence_at_start evidence_at_end recognises_recording",
        wrong_labels=0.3,
    ),
    # Without the verdicts on accuracy above chance in unseen groups: models recognise the recordings, which the
    # groups hide. Only the audit can tell.
    "wrong_groups": Scenario(
        "The classes do not differ, each recording has a place of its own, and two groups show each recording.",
        _UNMARKED,
        yes="uses_background",
        no="needs_order uses_direction needs_several_frames needs_full_rate evidence_at_start evidence_at_end",
        recording_backgrounds=True,
        copied_groups=True,
    ),
    "control_ahead": Scenario(
        "Each class has an actor of its own colour, and the sequence model is trained for one epoch only.",
        _COLORS,
        yes="appearance_suffices models_differ",
        epochs={"lstm": 1},
        ahead="frame_pool",
    ),
    # Without the verdicts on accuracy above chance, which are about the weights: their "no" is true.
    "undertrained": Scenario(
        "One class shows the other's frames backwards, and trainings of one epoch do not learn it.",
        _RISE_OR_SINK,
        cannot_tell="needs_order uses_direction needs_several_frames uses_background needs_full_rate "
        "evidence_at_start evidence_at_end recognises_recording models_differ",
        epochs=dict.fromkeys(MODELS, 1),
    ),
    "speed_twice": Scenario(
        "As speed, for a recipe that is compared with itself: some of its trainings learn speed, others do not.",
        _SLOW_OR_FAST,
        no=_BETWEEN_TRAININGS,
        models=("lstm",),
    ),
    "appearance_leak_twice": Scenario(
        "As appearance_leak, for a recipe that is compared with itself.",
        _COLORS,
        no=_BETWEEN_TRAININGS,
        recording_backgrounds=True,
        true_colors=0.6,
        models=("lstm",),
    ),
}
