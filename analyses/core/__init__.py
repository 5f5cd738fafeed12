"""What every analysis stands on: result, registry, runner, store, statistics, measures, figures."""
