# `make check` is what CI runs. ARGS goes to the program, as in: make test ARGS=tests/test_hub.py
# PYTHON chooses the interpreter of a new environment: make venv PYTHON=python3.13

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check

# What the tests need besides Python packages: names that tools/system-deps knows.
# Debian 12 and Ubuntu have a package of janus, Debian 13 has none.
SYSTEM_DEPS := chromium coturn firefox-esr nginx npm postgresql redis-server --if-available janus

# What `make quick` leaves out: browsers, clusters, PostgreSQL, and what takes long.
SLOW := announcements browser conformance deploy floods replicas soak \
	test_announcer.py test_compare.py test_model.py test_openapi.py test_presence.py test_workers.py

# Those that try what is left to chance, as often as there is time for.
THOROUGH := announcements/test_kills.py client/test_cancellation.py replicas/test_joining.py replicas/test_outages.py replicas/test_storm.py test_model.py test_resumption.py test_resuming.py

# What people read, and no tool writes.
PAGES := README.md CONTRIBUTING.md CHANGELOG.md SECURITY.md $(wildcard docs/*.md docs/*/*.md)

# How many tests run at the same time: most of them wait for something most of the time.
JOBS := 3

# Each process that a test starts would compile all of ours anew: a third of its start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: serve test quick thorough check format lint types docs site bench bench-relay cluster soak faults floods fuzz fuzz-redis call12 lock audit packages check-pythons venv clean
.NOTPARALLEL:
.DELETE_ON_ERROR:

serve: $(VENV)/.installed
	@exec $(BIN)/trio-signal serve $(ARGS)

# Three replicas behind nginx, with Redis, PostgreSQL and Janus: make cluster ARGS='--port 9000'
cluster: $(VENV)/.installed
	@tools/system-deps nginx postgresql redis-server --if-available janus
	@exec $(BIN)/python deploy/cluster.py $(ARGS)

test: venv
	@tools/system-deps $(SYSTEM_DEPS)
	$(BIN)/python -m pytest -n $(JOBS) $(ARGS)

# The tests of one's own work, in two minutes: no browser, no cluster, no PostgreSQL.
quick: venv
	@tools/system-deps redis-server
	$(BIN)/python -m pytest -n $(JOBS) -k 'not PostgreSQL' \
		$(SLOW:%=--ignore=tests/%) $(ARGS)

# What `make test` tries a little, tried ten times as often: some twenty minutes.
thorough: venv
	@tools/system-deps redis-server
	EFFORT=10 $(BIN)/python -m pytest -n $(JOBS) $(THOROUGH:%=tests/%) $(ARGS)

# The tests come last, so that their summary ends the output.
check: lint types docs test

format: venv
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

lint: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell
	$(BIN)/proselint check --config tools/proselint.json $(PAGES)
	$(BIN)/python tools/check_words.py

types: venv
	$(BIN)/mypy

docs: venv
	$(BIN)/python tools/check_links.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@! grep -rE --include='*.html' '(src=|<link [^>]*href=)"?https?:' site

# The pages of docs/ in site/, to be read in a browser.
site: docs
	@echo "Look at it: python3 -m http.server --directory site 8001"

# This server beside its peers: make bench ARGS='--quick'. What a peer needs is installed into
# bench/.cache; one that cannot be had is named in the table.
bench: $(VENV)/.installed-bench
	@tools/system-deps gcc redis-server
	$(BIN)/python -m bench $(ARGS)

# What a viewer costs that gets its media from Janus, beside a direct one: a minute or two.
bench-relay: venv
	@tools/system-deps janus
	$(BIN)/python -m tests.relay.cost $(ARGS)

# What floods cost those who mean well.
floods: venv
	@tools/system-deps slowhttptest
	$(BIN)/python -m tests.floods.measure $(ARGS)

# Twenty minutes of faults in Redis and replicas: make faults ARGS='--server valkey SEED'
faults: venv
	@tools/system-deps redis-server
	$(BIN)/python -m tests.faults $(ARGS)

# Twenty minutes of use, with everything killed in turn.
soak: venv
	@tools/system-deps nginx postgresql redis-server
	$(BIN)/python -m tests.soak $(ARGS)

# A call of twelve people in one browser: some minutes.
call12: venv
	@tools/system-deps chromium
	$(BIN)/python -m tests.browser.twelve $(ARGS)

# Ten minutes of anything; what it finds new is kept in fuzz/corpus.
fuzz: venv
	$(PIP) install --group fuzz
	$(BIN)/python -m fuzz $(ARGS)

# Ten minutes of junk in Redis, while clients are at work: make fuzz-redis ARGS='60 SEED'
fuzz-redis: venv
	@tools/system-deps redis-server
	$(BIN)/python -m fuzz.redis $(ARGS)

# The versions that are deployed, with their hashes: requirements.txt is what platforms look for.
lock: venv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--no-annotate --custom-compile-command 'make lock' \
		--extra postgres pyproject.toml --output-file requirements.txt $(ARGS)

# What is published, built into dist/: wheel, sdist and npm package, in empty environments; and how
# it is deployed: Dockerfile, chart, workflows.
packages: venv
	$(PIP) install --group packages
	$(BIN)/hadolint deploy/Dockerfile
	$(BIN)/zizmor --offline --quiet .github/workflows
	$(BIN)/python -m tools.print_manifests --check
	$(BIN)/python tools/check_packages.py $(ARGS)

# Asks a database of vulnerabilities, which may know more today than yesterday.
audit: venv
	$(PIP) install --group audit
	$(BIN)/python tools/check_licences.py
	$(BIN)/pip-audit --strict --disable-pip --require-hashes --requirement requirements.txt

# The quick tests with each Python that is found.
check-pythons: venv
	@tools/check-pythons $(ARGS)

venv: $(VENV)/.installed-dev

clean:
	rm -rf $(VENV) dist site .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	@python=$${PYTHON:-$$(tools/find-python)} && "$$python" -m venv --clear $(VENV)

$(VENV)/.installed: pyproject.toml $(BIN)/python
	$(PIP) install --editable .
	@touch $@

# pip has known dependency groups since 25.1, which is more than most Pythons bring.
$(VENV)/.installed-dev: pyproject.toml $(BIN)/python
	$(PIP) install 'pip>=25.1'
	$(PIP) install --editable . --group lint --group test --group docs
	@touch $(VENV)/.installed $@

$(VENV)/.installed-bench: pyproject.toml $(BIN)/python
	$(PIP) install 'pip>=25.1'
	$(PIP) install --editable . --group bench
	@touch $(VENV)/.installed $@
