MODULES := $(patsubst %/go.mod,%,$(wildcard ./go.mod verify/go.mod test/go.mod))
LINT    := go tool -modfile=$(CURDIR)/tools/lint/go.mod

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | while IFS="$$(printf '\t')" read -r target what; do printf '  make %-12s %s\n' "$$target" "$$what"; done

.PHONY: demo
demo: ## See the engine work in a throw-away Vault, each step checked
	@scripts/demo.sh

.PHONY: dev
dev: ## Leave that Vault running, to try things by hand; Ctrl-C ends it
	@scripts/dev.sh

.PHONY: build
build: ## Build the plugin and tokenwatch into bin/, and write their checksums
	@mkdir -p bin
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -o bin/ ./cmd/...
	@cd bin && sha256sum $(notdir $(wildcard cmd/*)) >SHA256SUMS

PKG := ./...

.PHONY: test
test: ## Run all tests, with what they need; PKG=./tokenwatch: that package of test/
	@scripts/test-tools.sh
	@set -e; for module in $(if $(filter ./...,$(PKG)),$(filter-out test,$(MODULES))); do echo "vet, test: $$module"; (cd $$module && go vet ./... && go test -race -timeout 20m ./...); done
	@cd test && go vet $(PKG)
	@scripts/test-servers.sh $(PKG)

.PHONY: bench
bench: ## Compare the engine's speed with Vault's own tokens and, with AGAINST=<commit or binary>, with another build
	vault=$$(scripts/vault.sh) && cd test && VAULT_BIN="$$vault" go run ./bench $(if $(AGAINST),-against "$(AGAINST)" -rounds 28 -duration 250ms)

.PHONY: watch-bench
watch-bench: ## Compare tokenwatch with jq on a generated log of 2 GB
	vault=$$(scripts/vault.sh) && cd test && VAULT_BIN="$$vault" go run ./watchbench

.PHONY: state
state: ## Record what the engine stores, as a fixture for the tests of later builds
	vault=$$(scripts/vault.sh) && cd test && VAULT_BIN="$$vault" go run ./state -rev "$(or $(REV),HEAD)"

.PHONY: lint
lint: ## Check formatting, go vet, staticcheck, and shellcheck if it is installed
	@unformatted=$$($(LINT) gofumpt -l .) && test -z "$$unformatted" || { printf 'not formatted, run make fmt:\n%s\n' "$$unformatted"; exit 1; }
	@set -e; for module in $(MODULES); do echo "vet, staticcheck: $$module"; (cd $$module && go vet ./... && $(LINT) staticcheck ./...); done
	@if command -v shellcheck >/dev/null; then echo shellcheck; shellcheck -x --severity=warning scripts/*.sh .ci/run; fi

.PHONY: fmt
fmt: ## Format the Go code
	$(LINT) gofumpt -w .

.PHONY: clean
clean: ## Remove what was built here; a Vault that was built stays in the user's cache
	rm -rf bin
