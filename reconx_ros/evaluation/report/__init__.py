"""The page of an evaluation: pictures, plots and tables in one HTML file."""
