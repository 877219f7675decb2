"""What is asked, one question a module. Each has a `scenario` that `benchmarks.scenarios.all` lists."""
