"""The tables of networks on sequences: a sentence encoder, keyword spotting on a stream, and few rows against weights in groups."""

from __future__ import annotations

from bench.runs.results import Group, Result

from .tables import Table, ratio


def sentences_tables(result: Result) -> list[Table]:
    """Of `python -m bench sentences`: agreement with the float model and milliseconds at full length, then milliseconds by length."""
    groups = sorted(result.groups, key=lambda group: -group.shape[1])
    if not groups:
        return []
    first = groups[0]
    int8, floats = first.fastest("int8"), first.find("torch, float")
    rows = []
    for cell in first.cells:
        agreement = [f"{cell.info[key]:.4f}" if key in cell.info else "-" for key in ("cosine_mean", "cosine_min", "rank_correlation")]
        over = [ratio(cell.over(peer)) if peer else "-" for peer in (int8, floats)]
        rows.append((cell.name, f"{cell.time.median / 1e6:.2f}", *over, *agreement))
    words = f"the fastest int8 is {int8.name}" if int8 else "no int8 was measured"
    note = (
        f"MiniLM (6 layers, 384 wide), one passage of {first.shape[1]} words per call, one core; ms are medians; {words}. Cosines are "
        "those of embeddings to the float model's, rank correlation that of the similarities of all pairs of passages."
    )
    header = ("", "ms", "over the fastest int8", "over torch's float", "mean cosine", "min cosine", "rank correlation")
    made = [Table(f"Sentences: MiniLM, {first.shape[1]} words", header, rows, note)]
    if len(groups) > 1:
        names = [cell.name for cell in first.cells]
        lengths = [(name, *(_ms(group, name) for group in groups)) for name in names]
        heads = ("ms", *(f"{group.shape[1]} word{'s' if group.shape[1] > 1 else ''}" for group in groups))
        made.append(Table("Sentences: MiniLM by length", heads, lengths))
    return made


def _ms(group: Group, name: str) -> str:
    cell = group.find(name)
    return f"{cell.time.median / 1e6:.3g}" if cell else "-"


def keyword_table(result: Result) -> Table:
    """Of `python -m bench keyword`: microseconds per frame of 10 ms, here and modelled."""
    (group,) = result.groups
    cores = list(dict.fromkeys(core for cell in group.cells for core in cell.info.get("modelled_us", {})))
    rows = []
    for cell in group.cells:
        right = f"{100 * cell.info['recognized']:.1f} %" if "recognized" in cell.info else "-"
        modelled = [f"{us:.1f}" if (us := cell.info.get("modelled_us", {}).get(core)) is not None else "-" for core in cores]
        rows.append((cell.name, f"{cell.time.median / 1e3:.2f}", *modelled, right))
    header = ("", "us, measured", *(f"products on {core}, us, modelled" for core in cores), "words recognized")
    note = (
        "One frame of 10 ms per call on one core, states in and out; medians. Modelled: the products alone, without gates, features and "
        "calls, by costs of kernels that were counted under emulation, never run on that core. Words are synthesized, not recorded."
    )
    return Table("Keyword spotting on a stream", header, rows, note)


def grouped_tables(result: Result) -> list[Table]:
    """Of `python -m bench grouped`: milliseconds of few rows against weights in groups."""
    names = list(dict.fromkeys(cell.name for group in result.groups for cell in group.cells))
    rows = [(name, *(_ms(group, name) for group in result.groups)) for name in names]
    note = "Activations of 8 bits; groups of 128 k; medians on one core. cold: weights come from memory, not from the caches."
    return [Table("Weights in groups", ("ms", *(group.name for group in result.groups)), rows, note)]
