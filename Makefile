# Every target is one line over a script; the scripts say what they do.
.DEFAULT_GOAL := help
PYTHON ?= python3
RUN := .venv/bin/python

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 20

environment: ## virtual environment in .venv with everything pinned
	@$(PYTHON) scripts/environment.py

demo: ## cluster, operator and two jobs, from nothing to trained models
	@$(PYTHON) scripts/demo.py

test: ## lint, unit, control-plane and end-to-end lanes; LANES="lint unit" for some of them
	@$(PYTHON) scripts/test.py $(LANES)

e2e: ## end-to-end tests in real pods (all of them)
	@$(PYTHON) scripts/test.py e2e-all

lint: environment ## ruff and mypy
	@$(PYTHON) scripts/test.py lint

crds: environment ## generate the CRDs and docs/api.md from the models
	@PYTHONPATH=crds $(RUN) -m plumbline_crds generate

crd-conformance: environment ## the table of bad specs on a CRD server that evaluates CEL
	@PYTHONPATH=crds:. $(RUN) -m tests.api.crd_conformance

tiny-model: environment ## train the small real model of demo, examples and tests
	@$(RUN) examples/tiny-model/build.py

images: ## build operator and trainer image and load them into the cluster, if one runs
	@$(PYTHON) images/build.py all

scale: environment ## measure the operator at scale on a real API server (docs/scale.md); ARGS="burst --at-once 200"
	@$(RUN) -m tests.scale $(ARGS)

bench-preference: environment ## measure our DPO against TRL's (docs/benchmarks.md); ARGS="--model 100m"
	@$(RUN) -m bench.preference $(ARGS)

bench-rlvr: environment ## measure our GRPO against TRL's (docs/benchmarks.md); ARGS="--threads 1"
	@$(RUN) -m bench.rlvr $(ARGS)

chaos: environment ## a hundred random failures around one RLVR job; ARGS="--kills 20 --seed 7"
	@PYTHONPATH=crds:. $(RUN) -m tests.chaos $(ARGS)

learning: environment ## train every method on small tasks (docs/learning.md); ARGS="--minutes 10"
	@$(RUN) -m bench.learning $(ARGS)

faults: environment ## injected failures in real pods, each of which must get its reason; ARGS="--only hangs frozen"
	@PYTHONPATH=crds:. $(RUN) -m tests.faults $(ARGS)

cluster-up: ## bring up a local Kubernetes
	@$(PYTHON) -m cluster up

cluster-down: ## stop it and restore the machine
	@$(PYTHON) -m cluster down

.PHONY: scale help environment demo test e2e lint crds crd-conformance tiny-model images bench-preference bench-rlvr learning chaos faults cluster-up cluster-down
