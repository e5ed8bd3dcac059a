"""The preservation set: which cases must keep working, how they are kept, and the guard's verdict on a candidate."""

from sgsc_micro.preserve.bounds import CONFIDENCE, safe_prefix, upper_bound
from sgsc_micro.preserve.cases import NO_LABEL, CaseSet, load, load_user_cases, merge, save
from sgsc_micro.preserve.coverage import counts, gaps, holes
from sgsc_micro.preserve.disjoint import NearDuplicates, check_disjoint, label_conflicts
from sgsc_micro.preserve.field import history_of, next_path, propose, read_field, version_of, write_version
from sgsc_micro.preserve.guard import Change, Verdict, decisions, judge, margins, smallest_margins
from sgsc_micro.preserve.selection import check_reference, choose, right_cases, strategy_of
from sgsc_micro.preserve.strategies import STRATEGIES, Features

__all__ = [
    "CONFIDENCE",
    "NO_LABEL",
    "STRATEGIES",
    "CaseSet",
    "Change",
    "Features",
    "NearDuplicates",
    "Verdict",
    "check_disjoint",
    "check_reference",
    "choose",
    "counts",
    "decisions",
    "gaps",
    "history_of",
    "holes",
    "judge",
    "label_conflicts",
    "load",
    "load_user_cases",
    "margins",
    "merge",
    "next_path",
    "propose",
    "read_field",
    "right_cases",
    "safe_prefix",
    "save",
    "smallest_margins",
    "strategy_of",
    "upper_bound",
    "version_of",
    "write_version",
]
