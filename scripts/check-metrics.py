"""Checks that a scrape parses as Prometheus text and keeps to our rules for names."""

import sys

from prometheus_client.parser import text_string_to_metric_families

with open(sys.argv[1], encoding="utf-8") as file:
    families = list(text_string_to_metric_families(file.read()))

wrong = []
for family in families:
    if not family.name.startswith("starling_"):
        wrong.append(f"{family.name} does not begin with starling_")
    if family.type in ("unknown", "untyped"):
        wrong.append(f"{family.name} has no type")
    if not family.documentation:
        wrong.append(f"{family.name} has no help")
    series = [(sample.name, tuple(sorted(sample.labels.items()))) for sample in family.samples]
    if len(series) != len(set(series)):
        wrong.append(f"{family.name} shows a series twice")
names = [family.name for family in families]
if len(names) != len(set(names)):
    wrong.append("a metric is declared twice")
if not families:
    wrong.append("there are no metrics")

for line in wrong:
    print(line, file=sys.stderr)
print(f"{len(families)} metrics")
sys.exit(1 if wrong else 0)
