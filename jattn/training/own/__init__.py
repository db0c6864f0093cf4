"""Code of a person's own that a config names: loaded, checked, made into keys of the config, and kept with the run."""
