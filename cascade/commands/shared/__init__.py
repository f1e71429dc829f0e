"""What several commands do alike: arguments, errors, tables on the terminal, figures."""
