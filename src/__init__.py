"""Makes this folder a package, so that no other package named `src` is found first."""
