"""Many runs: how they are planned, started and compared."""
