"What the searches in deep networks need of a run, and nothing more."
from dataclasses import dataclass, field

from neurome_nb import Architecture, Oracle
from neurome_nb.core import generator
from neurome_nb.deep import DeepFailure


@dataclass
class Bare:
    oracle: Oracle
    arch: Architecture
    stages: list = field(default_factory=list)
    attempt: int = 0
    def ask(self, x): return self.oracle(x)
    def generator(self, name): return generator(self.attempt, f"test/{name}")
    def stage(self, name, layers=None, **detail): self.stages.append((name, detail))

def first_success(recover, oracle, arch, *args, attempts=4, **kwargs):
    "What the first attempt gives that does not notice its own failure: the recipe repeats attempts, and which of them fail depends on the last digits of a machine's sums."
    for attempt in range(attempts):
        try: return recover(Bare(oracle, arch, attempt=attempt), *args, **kwargs)
        except DeepFailure as e: failure = e
    raise failure
