"""From a data set as it was downloaded to the manifest that mvit_train reads: one command per source."""
