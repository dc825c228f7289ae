"""What a case is (case), the three kinds (op_cases, model_cases, memory_cases), and all of them by name (registry)."""
