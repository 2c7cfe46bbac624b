"""Numbers and values as a reader wants them: short, with unit, never more digits than are known."""

import math

from common import PAPERS
from common.criteria import Band, Criterion, Crossover, Near, Order, Ratio, Trend

TIMES = "\N{MULTIPLICATION SIGN}"
DASH = "\N{EN DASH}"
#: In place of a value nobody knows.
UNKNOWN = "\N{EM DASH}"


def number(value: float) -> str:
    """Three significant digits, whole numbers in full: 39,360 | 3.12 | 0.0147 | 2.4e-07."""
    if value == 0:
        return "0"
    size = abs(value)
    if float(value).is_integer() and size < 1e9:
        return f"{int(value):,}"
    if size >= 1e9 or size < 1e-4:
        return f"{value:.3g}"
    if size >= 1000:
        return f"{value:,.0f}"
    # Rounded first: 99.96 has its third digit before the point.
    digits = max(0, 2 - math.floor(math.log10(float(f"{size:.3g}"))))
    return f"{value:.{digits}f}"


def as_given(value: float) -> str:
    """A number with the digits it was written with: 4.5 | 0.9 | 276,017."""
    whole = float(value).is_integer() and abs(value) < 1e9
    return f"{int(value):,}" if whole else f"{value:.6g}"


def exact(value: float, unit: str) -> str:
    """A counted number with its unit: four digits, as the paper's are, and no idle zeros."""
    whole = float(value).is_integer()
    return as_given(value if whole else float(f"{value:.4g}")) + _suffix(unit)


def with_unit(value: float, unit: str) -> str:
    """A number and its unit, a ratio with a times sign: 3.12x | 22.9% | 1.4 ms."""
    return number(value) + _suffix(unit)


def span(low: float, high: float, unit: str) -> str:
    """A range as it was given, the unit once."""
    return f"{as_given(low)}{DASH}{as_given(high)}{_suffix(unit)}"


def interval(low: float | None, high: float | None) -> str:
    """The 95% interval in brackets, or nothing when there is none or it has no width."""
    if low is None or high is None or low == high:
        return ""
    return f"[{number(low)}, {number(high)}]"


def paper_value(value: float | tuple[float, float] | None, unit: str) -> str:
    """The paper's number or range, or an em dash when it is not known."""
    if value is None:
        return UNKNOWN
    if isinstance(value, tuple):
        return span(value[0], value[1], unit)
    return as_given(value) + _suffix(unit)


def unit_phrase(unit: str) -> str:
    """The unit as an axis names it."""
    return _SHOWN_UNITS.get(unit, unit)


def criterion(rule: Criterion | None, unit: str) -> str:
    """What a claim must meet, in words; nothing for a claim without a criterion."""
    match rule:
        case Ratio():
            share = "" if rule.min == 1 else f"{as_given(rule.min)} of "
            return f"at least {share}the paper's result"
        case Band():
            return _limits(rule.low, rule.high, unit)
        case Near(abs=0):
            return "exactly the paper's value"
        case Near(abs=float() | int() as distance):
            # A distance between two ratios is a plain number.
            apart = as_given(distance) + ("" if unit == "x" else _suffix(unit))
            return f"within {apart} of the paper's value"
        case Near(rel=float() | int() as share):
            return f"within {as_given(100 * share)}% of the paper's value"
        case Order():
            return f"{words(rule.by)} in the order " + " < ".join(map(words, rule.values))
        case Trend():
            return f"{'rises' if rule.sign > 0 else 'falls'} with {words(rule.axis)}"
        case Crossover():
            way = "rises past" if rule.sign > 0 else "falls past"
            limits = _limits(rule.low, rule.high, "")
            place = f", {limits}" if limits else ""
            return f"{way} {as_given(rule.level)} along {words(rule.axis)}{place}"
    return ""


def claim_label(claim_id: str) -> str:
    """The last part of a claim's id as words: ttrec.abstract.kernel_speedup -> kernel speedup."""
    names = claim_id.rsplit(".", 1)[-1].split("_")
    return " ".join(_ACRONYMS.get(name, name) for name in names)


def experiment_label(name: str) -> str:
    """An experiment in words, without its package: transformer_dm_encoder -> Encoder."""
    package = next((p for p in (*PAPERS, "common") if name.startswith(f"{p}_")), "")
    label = words(name.removeprefix(f"{package}_"))
    return label[:1].upper() + label[1:]


_ACRONYMS = {
    name.lower(): name
    for name in (
        *("AUC", "BERT", "CPU", "DAG", "ECN", "FCT", "FPGA", "GBM", "GEMM", "GPU", "GRU", "JCT"),
        *("LSTM", "MAPE", "MHA", "NDCG", "QKV", "SVD", "TreeGRU", "TreeLSTM", "TreeRNN"),
        *("Cavs", "DyNet", "Kaggle", "Pearson", "Pluto", "PyTorch", "Spearman", "Terabyte"),
        "Tiramisu",
    )
}


def words(name: object) -> str:
    """An identifier as words."""
    return str(name).replace("_", " ")


def sentence(text: str) -> str:
    """The text with a capital letter and a full stop."""
    text = text.strip()
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."


def duration(seconds: float | None) -> str:
    """How long a run took: 0.4 s | 12 s | 3 min 20 s | 2 h 5 min."""
    if seconds is None:
        return UNKNOWN
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def plural(count: int, noun: str) -> str:
    """1 run, 2 runs."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


# "1" is the unit of a plain number.
_SHOWN_UNITS = {"x": TIMES, "1": ""}


def _limits(low: float, high: float, unit: str) -> str:
    if math.isinf(low) and math.isinf(high):
        return ""
    if math.isinf(high):
        return f"at least {as_given(low)}{_suffix(unit)}"
    if math.isinf(low):
        return f"at most {as_given(high)}{_suffix(unit)}"
    return f"between {as_given(low)} and {as_given(high)}{_suffix(unit)}"


def _suffix(unit: str) -> str:
    shown = unit_phrase(unit)
    return shown if shown in (TIMES, "%", "") else f" {shown}"
