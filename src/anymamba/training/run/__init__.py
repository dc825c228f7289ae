"""What a run is: its options, its folder, its model, before and after the steps."""
