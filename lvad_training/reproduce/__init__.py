"""The paper's tables on any data set: ``lvad-train reproduce TABLE`` runs their rows, beside the paper's figures."""
