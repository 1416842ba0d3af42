"What the searches in deep networks need of a run, and nothing more."
from dataclasses import dataclass, field

from neurome_nb import Architecture, Oracle
from neurome_nb.core import generator


@dataclass
class Bare:
    oracle: Oracle
    arch: Architecture
    stages: list = field(default_factory=list)
    def ask(self, x): return self.oracle(x)
    def generator(self, name): return generator(0, f"test/{name}")
    def stage(self, name, layers=None, **detail): self.stages.append((name, detail))
