"""How many parameters a method has, of a model in memory or of one that is only a config."""
