"""Files that change while they are measured: how many of so many seeded tries end with a wrong attribution.

``python3 dev.py bench swaps --tries 200`` replaces, overwrites, truncates or deletes a file of a checkpoint, or puts a
FIFO or a link into its place, at a random moment of a trace, a comparison or a streamed one
(``tests/support/swaps.py``).
Exit 1 when a number was attributed to a content that does not have it, or an error said anything but ``model_changed``.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support.swaps import attempt, learn


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the first try; the others count on")
    chosen = parser.parse_args()
    with TemporaryDirectory(prefix="spinal-swaps-") as folder:
        truth = learn(Path(folder))
        made = [attempt(truth, chosen.seed + number) for number in range(chosen.tries)]
    wrong = [each for each in made if each.wrong]
    ends = Counter(each.code or "the numbers of what they name" for each in made if not each.wrong)
    sys.stdout.write(f"{len(made)} tries, {sum(each.acted for each in made)} files changed, {len(wrong)} wrong\n")
    for end, count in ends.most_common():
        sys.stdout.write(f"{count:6}  {end}\n")
    for operation, count in sorted(Counter((each.operation, each.act) for each in made).items()):
        sys.stdout.write(f"{count:6}  {', '.join(operation)}\n")
    # Ahead of the first look a file is judged as it is then.
    odd = [each for each in made if each.code not in (None, "model_changed") and each.moment > 0]
    for each in (*wrong, *odd):
        sys.stdout.write(f"{each}\n")
    return 1 if wrong or odd else 0


if __name__ == "__main__":
    sys.exit(main())
