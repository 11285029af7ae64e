"""Images: folders, lists and named data sets; splits and label budgets; views and batches."""
