"""The preservation set: which cases must keep working, how they are kept, and the guard's verdict on a candidate."""

from sgsc_micro.preserve.bounds import safe_prefix, upper_bound
from sgsc_micro.preserve.cases import NO_LABEL, CaseSet, load, load_user_cases, merge, save
from sgsc_micro.preserve.guard import Change, Verdict, decisions, judge, margins, smallest_margins
from sgsc_micro.preserve.selection import STRATEGIES, check_disjoint, choose

__all__ = [
    "NO_LABEL",
    "STRATEGIES",
    "CaseSet",
    "Change",
    "Verdict",
    "check_disjoint",
    "choose",
    "decisions",
    "judge",
    "load",
    "load_user_cases",
    "margins",
    "merge",
    "safe_prefix",
    "save",
    "smallest_margins",
    "upper_bound",
]
