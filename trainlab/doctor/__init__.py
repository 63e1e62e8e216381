"""The doctor: finds out why a training program is broken, and is quiet where it is sound.

check(model, criterion, optimizer, train_loader, ...)  looks before, during and after some 24 steps on copies
with watch(model, optimizer) as seen: ...              looks on while the learner's own loop runs
"""

from .examination import check as check
from .report import Diagnosis as Diagnosis
from .report import Finding as Finding
from .watching import watch as watch
