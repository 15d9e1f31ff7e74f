"""Search methods: pure functions over integer genomes; numpy, no networks."""
