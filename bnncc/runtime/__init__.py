"""What a board needs: artifacts checked, loaded and run, with numpy and the standard library alone."""
