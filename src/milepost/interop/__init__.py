"""Other frameworks' files, names and state, in terms of PyTorch's and Milepost's. Policies are not known here."""
