"""The library on emulated ARM CPUs: cross-built, tested, counted, and priced by models of cores. See README.md."""
