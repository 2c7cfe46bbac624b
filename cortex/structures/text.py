"""Forests from treebank text: bracketed trees and CoNLL-U."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from cortex.errors import StructureError
from cortex.forest import Forest
from cortex.structures.arrays import from_children
from cortex.structures.objects import collapsed, number_words

_PTB = re.compile(r"[()]|[^\s()]+")


def from_ptb(
    text: str | Path,
    labels: bool = False,
    vocab: Mapping[str, int] | Callable[[str], int] | None = None,
    *,
    unary: str = "keep",
) -> Forest:
    """Bracketed trees such as `(3 (2 It) (4 (2 is) (2 good)))`, one or many.

    text:   the text itself, or a Path (or a one-line name ending in .txt, .mrg or .ptb) of a file
    labels: tokens of inner nodes are their labels, which must be integers then (as in SST)
    vocab:  number of a word; without it words are numbered in the order they appear
    unary:  "collapse" leaves out nodes with one child

    A bracket around a single word, `(2 It)`, is the leaf itself. `names` has the words of leaves
    and the labels of inner nodes.

    Raises StructureError naming line and column for brackets that do not match.
    """
    if isinstance(text, Path) or ("\n" not in text and text.endswith((".txt", ".mrg", ".ptb"))):
        text = Path(text).read_text(encoding="utf-8")
    rows: list[list[int]] = []
    words: list[str | None] = []
    names: list[str] = []
    roots: list[int] = []
    open_at: list[tuple[int, int]] = []  # node, where its bracket stands
    waits_for_label = False

    def fail(what: str, position: int) -> StructureError:
        line = text.count("\n", 0, position) + 1
        column = position - (text.rfind("\n", 0, position) + 1) + 1
        return StructureError(f"line {line}, column {column}: {what}")

    def add(word: str | None, name: str) -> int:
        node = len(rows)
        rows.append([])
        words.append(word)
        names.append(name)
        if open_at:
            rows[open_at[-1][0]].append(node)
        else:
            roots.append(node)
        return node

    for match in _PTB.finditer(text):
        piece, position = match.group(), match.start()
        if piece == "(":
            node = add(None, "")
            open_at.append((node, position))
            waits_for_label = True
        elif piece == ")":
            if not open_at:
                raise fail("a closing bracket must have an opening one, got ')' alone", position)
            node, _ = open_at.pop()
            if not rows[node]:
                raise fail("a bracket must hold a label and a word or trees, got none", position)
            waits_for_label = False
        elif not open_at:
            raise fail(f"a tree must start with '(', got {piece!r}", position)
        elif waits_for_label:
            names[open_at[-1][0]] = piece
            waits_for_label = False
        else:
            add(piece, piece)
    if open_at:
        raise fail("every opening bracket must be closed, this one is not", open_at[-1][1])

    # A bracket around one word stands for the word.
    is_word = [word is not None for word in words]
    gone = [False] * len(rows)
    for node, row in enumerate(rows):
        if len(row) == 1 and is_word[row[0]]:
            words[node], names[node] = words[row[0]], names[row[0]]
            gone[row[0]] = True
            rows[node] = []
    kept = [node for node in range(len(rows)) if not gone[node]]
    new = {node: i for i, node in enumerate(kept)}
    tokens = number_words([words[node] for node in kept], vocab)
    if labels:
        for i, node in enumerate(kept):
            if rows[node]:
                if not names[node].isdecimal():
                    raise StructureError(
                        f"labels must be integers to be tokens, got {names[node]!r} at node {i}"
                    )
                tokens[i] = int(names[node])
    forest = from_children(
        [[new[child] for child in rows[node]] for node in kept],
        [new[root] for root in roots],
        tokens,
        names=tuple(names[node] for node in kept),
    )
    return collapsed(forest, unary)


def from_conllu(
    text: str | Path, vocab: Mapping[str, int] | Callable[[str], int] | None = None
) -> Forest:
    """Dependency trees of CoNLL-U text: a node a word, children in the order of the sentence.

    text:  the text itself, or a Path (or a one-line name ending in .conllu) of a file
    vocab: number of a word form; without it words are numbered in the order they appear

    Ranges (1-2) and empty nodes (1.1) are left out. Raises StructureError naming the line for a
    head that is no word of the sentence, and for a sentence without exactly one root.
    """
    if isinstance(text, Path) or ("\n" not in text and text.endswith(".conllu")):
        text = Path(text).read_text(encoding="utf-8")
    rows: list[list[int]] = []
    words: list[str] = []
    roots: list[int] = []
    sentence: list[tuple[int, str, str, str]] = []  # line, id, form, head

    def close() -> None:
        first = len(rows)
        number = {word_id: first + i for i, (_, word_id, _, _) in enumerate(sentence)}
        rows.extend([] for _ in sentence)
        before = len(roots)
        for i, (line, _, form, head) in enumerate(sentence):
            words.append(form)
            if head == "0":
                roots.append(first + i)
            elif head in number and number[head] != first + i:
                rows[number[head]].append(first + i)
            else:
                raise StructureError(
                    f"line {line}: a head must be 0 or another word of the sentence, got {head!r}"
                )
        if sentence and len(roots) - before != 1:
            raise StructureError(
                f"the sentence at line {sentence[0][0]} must have one root (head 0), "
                f"got {len(roots) - before}"
            )
        sentence.clear()

    for line, content in enumerate(text.splitlines(), start=1):
        fields = content.split("\t")
        if not content.strip():
            close()
        elif not content.startswith("#"):
            if len(fields) != 10:
                raise StructureError(
                    f"line {line}: a word must have 10 fields between tabs, got {len(fields)}"
                )
            if fields[0].isdecimal():
                sentence.append((line, fields[0], fields[1], fields[6]))
    close()
    return from_children(rows, roots, number_words(list(words), vocab), names=tuple(words))
