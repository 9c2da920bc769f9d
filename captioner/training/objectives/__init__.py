"""What a stage of training minimises, one objective a file.

An objective is a Keras model around a captioning model. It makes a batch of arrays (`batch`), and
its `call` gives the losses of that batch by name, each a scalar that is weighted already. Keras
differentiates their sum, on whichever backend it runs.
"""

from captioner.training.objectives.base import Objective
from captioner.training.objectives.cross_entropy import CrossEntropy
from captioner.training.objectives.distillation import Distillation
from captioner.training.objectives.recognition import Recognition
from captioner.training.objectives.self_critical import SelfCritical

__all__ = ["CrossEntropy", "Distillation", "Objective", "Recognition", "SelfCritical"]
