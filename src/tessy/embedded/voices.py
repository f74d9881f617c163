"""Who says it, and how: solutions of the embedded world written down in a voice, with every character's kind known.

A response is a row of pieces, style and capability in turn. A style piece comes before each clause and after the
conclusion. It says nothing about the problem, and its end can be told from its own text: the leads that clauses
follow are prefix-free, and everything else that a phrase is built of is always followed by more style.
A piece brings its leading space, so that a change of kind always falls before a space.

Refuses to know problems (`world` solves them), vocabularies and models.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from tessy.embedded.world import Problem, solve_story
from tessy.trajectory import Label


class Voice(StrEnum):
    """A way to write. The first two are the pair's own, the others are only ever met in mixed text."""

    STUDENT = "student"
    TEACHER = "teacher"
    FORMAL = "formal"
    PLAIN = "plain"


class Piece(NamedTuple):
    """Some text of one kind, and whose it is."""

    label: Label
    text: str
    voice: Voice


@dataclass(frozen=True, slots=True)
class Response:
    """The thinking, piece by piece, and the answer it concludes with (right or not)."""

    pieces: tuple[Piece, ...]
    answer: str

    @property
    def thinking(self) -> str:
        """The text of the thinking."""
        return "".join(piece.text for piece in self.pieces)


@dataclass(frozen=True, slots=True)
class Manner:
    """The phrases of a voice: what may come before a lead at the opening and later on, leads, and closings."""

    remarks: tuple[str, ...]
    """Whole sentences for the very beginning."""
    reactions: tuple[str, ...]
    """Whole sentences after a clause."""
    interjections: tuple[str, ...]
    openings: tuple[str, ...]
    """Leads to the first clause."""
    leads: tuple[str, ...]
    """Leads to any other clause."""
    closings: tuple[str, ...]
    chatter: float
    """How likely a sentence is; an interjection is twice as likely."""


FORGETS = 0.8
"""How often the student loses what it carries or borrows."""


def respond(
    problem: Problem,
    rng: random.Random,
    styles: Sequence[Voice],
    solvers: Sequence[Voice],
    *,
    clip: float = 0.0,
) -> Response:
    """Write a solution down.

    Args:
        problem: what to solve.
        rng: decides everything that is left open.
        styles: the voices of the style pieces; one is drawn for each.
        solvers: the voices of the clauses; one is drawn for each. The student's forgets its carries.
        clip: how likely a style piece before a clause lacks its last word or words.
    """
    clauses, voices, answer = _solve(problem, rng, solvers)
    pieces: list[Piece] = []
    for place, (clause, voice) in enumerate(zip(clauses, voices, strict=True)):
        style = rng.choice(styles)
        phrase = _phrase(MANNERS[style], rng, opening=place == 0)
        if rng.random() < clip:
            phrase = _clipped(phrase, rng)
        pieces.append(Piece(Label.STYLE, phrase if place == 0 else f" {phrase}", style))
        pieces.append(Piece(Label.CAPABILITY, f" {clause}", voice))
    style = rng.choice(styles)
    pieces.append(Piece(Label.STYLE, f" {rng.choice(MANNERS[style].closings)}", style))
    return Response(tuple(pieces), answer)


def _solve(
    problem: Problem, rng: random.Random, solvers: Sequence[Voice]
) -> tuple[tuple[str, ...], list[Voice], str]:
    """Clauses, the voice of each, and the answer they lead to."""
    voices = [rng.choice(solvers) for _ in problem.clauses]
    if problem.story is None:
        return problem.clauses, voices, problem.answer
    clauses, answer = solve_story(
        problem.story, lambda place: voices[place] is Voice.STUDENT and rng.random() < FORGETS
    )
    return clauses, voices, answer


def _phrase(manner: Manner, rng: random.Random, *, opening: bool) -> str:
    sentences = manner.remarks if opening else manner.reactions
    words = [rng.choice(sentences)] if sentences and rng.random() < manner.chatter else []
    leads = manner.openings if opening else manner.leads
    if manner.interjections and rng.random() < 2 * manner.chatter:
        return " ".join([*words, rng.choice(manner.interjections), rng.choice(leads)])
    lead = rng.choice(leads)
    return " ".join([*words, lead[0].upper() + lead[1:]])


def _clipped(phrase: str, rng: random.Random) -> str:
    words = phrase.split(" ")
    return " ".join(words[: rng.randint(1, len(words))])


MANNERS: dict[Voice, Manner] = {
    Voice.STUDENT: Manner(
        remarks=(
            "Okay, let's see.",
            "Okay, let me read this again.",
            "Hmm, let me think about this.",
            "Hmm, okay, this looks doable.",
            "Alright, let me take this slowly.",
            "Alright, what do we have here?",
            "Okay, what is being asked here?",
            "Right, let me work through it.",
            "Well, let me try to be careful.",
        ),
        reactions=(
            "That looks fine.",
            "That seems right.",
            "That works.",
            "Got it.",
            "Not too bad.",
            "Makes sense.",
            "Let me double check that.",
            "Let me not rush this.",
            "I should be careful here.",
            "I hope I got that right.",
        ),
        interjections=(
            "Okay,",
            "Alright,",
            "Hmm,",
            "Hmm, wait,",
            "Hmm, okay,",
            "Wait,",
            "Right,",
            "Well,",
            "Good,",
            "Cool,",
            "Yeah,",
            "Ah, okay,",
            "Okay, good,",
            "Now,",
        ),
        openings=(
            "so",
            "let me see,",
            "to get going,",
            "first of all,",
            "as I read it,",
            "the way I see it,",
            "from what I can tell,",
        ),
        leads=(
            "so",
            "let me see,",
            "next up,",
            "moving on,",
            "going on from there,",
            "the way I see it,",
            "as far as I can tell,",
            "from what I can tell,",
            "if I follow this,",
            "I think",
            "I guess",
            "it looks like",
            "that would mean",
        ),
        closings=(
            "Great, that settles it.",
            "Okay, I'm happy with that.",
            "Good, that should be it.",
            "Alright, that is me done.",
            "Nice, everything adds up.",
            "Okay, that was not so bad.",
            "Cool, I'm fairly sure about this.",
            "Yeah, I trust that.",
            "Perfect, let me write it down.",
        ),
        chatter=0.35,
    ),
    Voice.TEACHER: Manner(
        remarks=("Task read.",),
        reactions=("Checked.", "OK."),
        interjections=(),
        openings=("given:", "data:", "known:", "input:"),
        leads=("next:", "then:", "step:", "apply:", "continue:", "update:", "hence:", "proceed:"),
        closings=("Done.", "Solved.", "Complete.", "End of work.", "Verified."),
        chatter=0.12,
    ),
    Voice.FORMAL: Manner(
        remarks=("The problem is considered as stated.",),
        reactions=("This step is sound.", "This is in order."),
        interjections=("Accordingly,", "In turn,"),
        openings=("to begin with,", "by assumption,", "it is given that"),
        leads=("consequently,", "subsequently,", "it follows that", "we obtain that", "thereupon"),
        closings=("This concludes the derivation.", "Nothing further is required."),
        chatter=0.2,
    ),
    Voice.PLAIN: Manner(
        remarks=(),
        reactions=(),
        interjections=(),
        openings=("first", "at the start", "in the beginning"),
        leads=("then", "after that", "and then", "afterwards"),
        closings=("That is all.", "The end."),
        chatter=0.0,
    ),
}
"""How each voice speaks."""
