"""What the command line does: settings, run folders and jobs, a module a command.

How the files fit together:

- `settings` has what the settings of every command share, `*_settings` those of each command, and
  `defaults` the values that are left open;
- `run_folder` is the folder of a run, `jobs` what is trained in it, one network each, and `display`
  what is shown meanwhile;
- `grow`, `prune`, `search` (with `random_search`), `retrain` and `retrain_cells` each run one job;
  `run_kinds` lists them with their settings;
- `export` and `show` make no run.
"""
