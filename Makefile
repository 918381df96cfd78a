# Only delegates: people and CI run the same scripts.
.PHONY: build test bench conformance quickstart images

build test bench conformance quickstart images:
	@scripts/$@
