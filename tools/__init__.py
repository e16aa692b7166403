"""What proves the code: emulators, models of cores, and a reference. Nothing here is needed to install or use `ulp`."""
