"""Replay the preservation set where the firmware runs, compare every byte with the host, write down what was seen."""

from sgsc_micro.verify.assessment import Assessment, assess
from sgsc_micro.verify.certificate import Evidence, Place, certify, policy_hash, read_certificate, write_certificate
from sgsc_micro.verify.replay import Outcome, replay_on_device, replay_on_host

__all__ = [
    "Assessment",
    "Evidence",
    "Outcome",
    "Place",
    "assess",
    "certify",
    "policy_hash",
    "read_certificate",
    "replay_on_device",
    "replay_on_host",
    "write_certificate",
]
