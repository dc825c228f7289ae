"""What a run is: its options, its folder, its model and machine, before and after the steps."""
