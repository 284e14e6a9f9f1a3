"""A proof checker of propositional logic, as a program: reads a formula, ends with 0 if it is a tautology, 1 if not.

Formulas have the variables a to e, the operators ~ & | -> and parentheses. What is no formula ends with 2. The formula
`sleep` never ends, and `print` prints for ever.
"""

import itertools
import re
import sys
import time


def main() -> int:
    formula = sys.stdin.read().strip()
    if formula == "sleep":
        time.sleep(3600)
    while formula == "print":
        sys.stdout.write("x" * 65536)
    if not re.fullmatch(r"[a-e~&|()\s>-]+", formula):
        print("no formula", file=sys.stderr)
        return 2
    python = formula.replace("->", "<=").replace("~", " not ").replace("&", " and ").replace("|", " or ")
    names = sorted(set(re.findall("[a-e]", formula)))
    try:
        compiled = compile(python.strip(), "formula", "eval")
        rows = itertools.product([False, True], repeat=len(names))
        values = [eval(compiled, {}, dict(zip(names, row, strict=True))) for row in rows]
    except SyntaxError:
        print("no formula", file=sys.stderr)
        return 2
    print(sum(map(bool, values)) / len(values))
    return 0 if all(values) else 1


if __name__ == "__main__":
    sys.exit(main())
