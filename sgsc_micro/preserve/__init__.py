"""The preservation set: which cases must keep working, how they are kept, and the guard's verdict on a candidate."""

from sgsc_micro.preserve.cases import NO_LABEL, CaseSet, load, load_user_cases, merge, save
from sgsc_micro.preserve.guard import Verdict, decisions, judge, margins, upper_bound
from sgsc_micro.preserve.selection import STRATEGIES, check_disjoint, choose

__all__ = [
    "NO_LABEL",
    "STRATEGIES",
    "CaseSet",
    "Verdict",
    "check_disjoint",
    "choose",
    "decisions",
    "judge",
    "load",
    "load_user_cases",
    "margins",
    "merge",
    "save",
    "upper_bound",
]
