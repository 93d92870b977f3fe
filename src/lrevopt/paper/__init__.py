"""The paper on top of the library: its experiments, figures, sentences and appendices."""
