"""Training after compression, with the original as teacher: distillation and fine-tuning. Needs the extra `torch`."""

from workbench.training.distillation import best_so_far as best_so_far
from workbench.training.distillation import distil as distil
from workbench.training.module_pruning import ModulePruned as ModulePruned
from workbench.training.module_pruning import PruneModuleOptions as PruneModuleOptions
from workbench.training.module_pruning import prune_module as prune_module
from workbench.training.options import Epoch as Epoch
from workbench.training.options import Trained as Trained
from workbench.training.options import TrainingOptions as TrainingOptions
