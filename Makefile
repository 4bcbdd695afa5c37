# Everything runs in .venv, made from requirements.txt the first time and after each change of that file.
# Another Python: make PYTHON=/path/to/python3.12 test

PYTHON :=
CANDIDATES := $(if $(PYTHON),$(PYTHON),python3.13 python3.12 python3.14 python3.11 python3)
# Named after the Python that was asked for, so that asking for another one makes .venv anew.
STAMP := .venv/.installed$(subst /,-,$(PYTHON))

.PHONY: demo test test-all test-oldest test-pgbouncer test-image test-ceph test-browser test-prometheus test-typescript \
  test-manifests screenshots soak mutants bench bench-tables lint release-notes requirements requirements-bench \
  requirements-manifests clean

demo: $(STAMP)
	@.venv/bin/python starter.py demo

# At least one test of every promise, on real servers and on both databases. docs/reliability.md says what test-all adds.
test: $(STAMP)
	@.venv/bin/python -m pytest -n 2

test-all: $(STAMP)
	@.venv/bin/python -m pytest -n 2 --all

# Many deletions under random faults, then the oracle: make soak SECONDS=3600 SEED=1. Without a seed one is drawn.
SECONDS := 60
SEED :=
soak: $(STAMP)
	@.venv/bin/python -m tests.soak --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

# The contract as a backend with the oldest packages has it: these tests run its programs with an interpreter of their own.
OLDEST := .venv-oldest/bin/python
test-oldest: $(STAMP) .venv-oldest/.installed
	@.venv/bin/python -m pytest tests/end_to_end/test_package.py tests/workflow/test_blocking.py --all --backend-python $(OLDEST)

.venv-oldest/.installed: requirements-oldest.txt
	@python=$(firstword $(PYTHON) python3.11); \
	"$$python" -c 'import sys; sys.exit(sys.version_info[:2] not in {(3, 11), (3, 12)})' || \
	  { echo "make test-oldest needs Python 3.11 or 3.12: such old packages are not there for newer ones." >&2; exit 1; }; \
	"$$python" -m venv --clear .venv-oldest && \
	$(OLDEST) -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements-oldest.txt && \
	touch $@

# PgBouncer comes with no Python package (Debian: apt install pgbouncer).
test-pgbouncer: $(STAMP)
	@.venv/bin/python -m pytest --all -m pgbouncer

# The image, built and run without Docker (Debian: apt install buildah debootstrap). Needs root.
test-image: $(STAMP) .image-base
	@.venv/bin/python -m pytest --all -m image

# Stands for the image that the Dockerfile begins from: Debian 13 has the same Python.
.image-base:
	@rm -rf $@.part && PATH="$$PATH:/usr/sbin" debootstrap --variant=minbase --include=python3-venv trixie $@.part >/dev/null && \
	rm -rf $@.part/var/cache/apt/archives $@.part/var/lib/apt/lists && ln -s python3 $@.part/usr/bin/python && mv $@.part $@

# The tests of the object store once more, on Ceph's gateway (Debian: apt install radosgw ceph-mon ceph-osd).
test-ceph: $(STAMP)
	@.venv/bin/python -m pytest -n 2 -m ceph --all --object-store ceph

# Breaks our own code, one place at a time in a copy, and says which test notices: five to ten minutes.
mutants: $(STAMP)
	@.venv/bin/python -m tests.mutants

# Chromium comes with no Python package (Debian: apt install chromium).
test-browser: $(STAMP)
	@.venv/bin/python -m pytest --all -m browser

# Prometheus comes with no Python package (Debian: apt install prometheus).
test-prometheus: $(STAMP)
	@.venv/bin/python -m pytest --all -m prometheus

# What kustomize makes of each folder, by Kubernetes' own schemas. Those of Prometheus' operator and of KEDA are not among them.
MANIFESTS := deploy/kubernetes/setup deploy/kubernetes deploy/cells/eu/setup deploy/cells/eu/service
test-manifests: .venv-manifests/.installed
	@mkdir -p build
	@for folder in $(MANIFESTS); do \
	  kubectl kustomize "$$folder" > build/manifests.yaml && .venv-manifests/bin/kubernetes-validate --strict build/manifests.yaml || exit 1; \
	done

.venv-manifests/.installed: requirements-manifests.txt $(STAMP)
	@.venv/bin/python -m venv --clear .venv-manifests
	@.venv-manifests/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: \
	  -r requirements-manifests.txt
	@touch $@

# Node.js and npm come with no Python package (Debian: apt install nodejs npm).
test-typescript: $(STAMP) .node/.installed
	@.venv/bin/python -m pytest --all -m typescript

.node/.installed: examples/typescript/package.json
	@mkdir -p .node && cp $< .node && cd .node && \
	npm install --engine-strict --no-package-lock --ignore-scripts --no-audit --no-fund --loglevel=error && touch .installed

# make release-notes VERSION=0.1.0
release-notes: $(STAMP)
	@.venv/bin/python .ci/release-notes $(VERSION)

screenshots: $(STAMP)
	@.venv/bin/python -m pytest --all -m browser --screenshots=docs/images

# Beside the tools that people would use instead, on this machine: about half an hour; make bench QUICK=1: under ten minutes;
# make bench FULL=1: the largest sizes, about an hour.
QUICK :=
FULL :=
BENCH_STAMP := .venv/.installed-bench
bench: $(BENCH_STAMP)
	@.venv/bin/python -m benchmarks.run $(if $(QUICK),--quick) $(if $(FULL),--full)

# The tables of docs/performance.md, of a whole run: make bench-tables JSON=build/bench.json. Without it, of docs/bench.json again.
JSON :=
bench-tables: $(STAMP)
	@.venv/bin/python -m benchmarks.tables $(JSON)

$(BENCH_STAMP): requirements-bench.txt $(STAMP)
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements-bench.txt
	@touch $@

lint: $(STAMP)
	@.venv/bin/ruff check
	@.venv/bin/ruff format --check
	@.venv/bin/mypy

# --only-binary: without a wheel pip would try to compile, and fail with a page of compiler output.
$(STAMP): requirements.txt
	@fits= ; \
	for python in $(CANDIDATES); do \
	  if "$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null; then \
	    fits=$$python; \
	    if "$$python" -c 'import ensurepip, venv' 2>/dev/null; then break; fi; \
	  fi; \
	done; \
	if [ -z "$$fits" ]; then \
	  echo "Install Python 3.11, 3.12, 3.13 or 3.14, or name one: make PYTHON=/path/to/python3.12 (tried: $(CANDIDATES))." >&2; exit 1; \
	fi; \
	if ! "$$fits" -c 'import ensurepip, venv' 2>/dev/null; then \
	  echo "$$fits has no venv module: install it (Debian, Ubuntu: apt install python3-venv)." >&2; exit 1; \
	fi; \
	echo "Making .venv with $$("$$fits" --version) (once, about a minute)"; \
	"$$fits" -m venv --clear .venv || exit 1; \
	if ! .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements.txt; then \
	  echo "pip could not install requirements.txt on $$(uname -sm) with $$("$$fits" --version), see above;" \
	    "all packages are there for Linux (glibc, x86-64 and ARM) and macOS (ARM), Python 3.11 to 3.14." >&2; exit 1; \
	fi; \
	touch $@

# With the oldest Python: what it resolves to is there for newer ones too, not the other way round. Without this machine's pip
# settings: hashes must be the public index's. What an image installs are the same versions, without what only tests need. The
# header names this command instead of pip-compile's, which would name options and paths. pip-compile knows no groups: it is fed.
PIP_COMPILE = python=$(firstword $(PYTHON) python3.11); \
	"$$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "make $@ needs Python 3.11." >&2; exit 1; }; \
	tools=$$(mktemp -d) && trap 'rm -rf "$$tools"' EXIT && \
	"$$python" -m venv "$$tools" && "$$tools/bin/python" -m pip install --quiet --disable-pip-version-check 'pip-tools>=7.6,<8' && \
	compile() { env -u PIP_FIND_LINKS -u PIP_EXTRA_INDEX_URL PIP_CONFIG_FILE=/dev/null CUSTOM_COMPILE_COMMAND='make $@' \
	  "$$tools/bin/pip-compile" --quiet --generate-hashes --strip-extras --no-annotate --allow-unsafe \
	  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host "$$@"; } && \
	groups() { "$$python" -c 'import sys, tomllib; found = tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]; \
	  print(*(one for name in sys.argv[1:] for one in found[name]), sep="\n")' "$$@"; } && \
	oldest() { "$$python" -c 'import tomllib; found = tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"]; \
	  print(*(one.partition(",")[0].replace(">=", "==") for one in found), "asyncpg", "greenlet", "psycopg[binary]", sep="\n")'; }

requirements:
	@$(PIP_COMPILE) && \
	groups service otel snuba dev | compile --output-file requirements.txt - && \
	groups service otel | compile --constraint requirements.txt --output-file deploy/requirements.txt - && \
	groups service otel snuba | compile --constraint requirements.txt --output-file deploy/requirements-snuba.txt - && \
	oldest | compile --output-file requirements-oldest.txt -

requirements-bench:
	@$(PIP_COMPILE) && \
	groups bench | compile --constraint requirements.txt --output-file requirements-bench.txt -

requirements-manifests:
	@$(PIP_COMPILE) && \
	groups manifests | compile --constraint requirements.txt --output-file requirements-manifests.txt -

clean:
	@rm -rf .venv .venv-oldest .venv-manifests .node .image-base .image-base.part .mypy_cache .pytest_cache .ruff_cache build dist *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
