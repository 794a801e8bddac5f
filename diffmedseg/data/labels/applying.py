"""Label a split by a recipe. If the recipe fails, the error names recipes that work."""

from diffmedseg.data.labels.crops import BorderCrops, MaskExcludedCrops
from diffmedseg.data.labels.inpainted import InpaintedPairs
from diffmedseg.data.labels.own import OwnLabels, OwnPairs
from diffmedseg.data.labels.recipe import LabelRecipe
from diffmedseg.data.store import ImageStore
from diffmedseg.errors import DataError

_RECIPES: tuple[type[LabelRecipe], ...] = (OwnLabels, OwnPairs, BorderCrops, MaskExcludedCrops, InpaintedPairs)


def label_split(recipe: LabelRecipe, store: ImageStore, pairs: bool = False) -> ImageStore:
    """Label a split.

    Args:
        recipe: The recipe.
        store: The split.
        pairs: Whether diseased images need healthy counterparts.

    Raises:
        DataError: If the split lacks the data that the recipe needs. The message names the other recipes that work with
            their default arguments.
    """
    try:
        return _label(recipe, store, pairs)
    except DataError as error:
        recipes = [other() for other in _RECIPES if other is not type(recipe)]
        work = [f"{type(other).__name__}, from {other.supervision}" for other in recipes if _works(other, store, pairs)]
        advice = "\n  ".join(["Recipes that work, for --data.label_recipe:", *work]) if work else "No recipe works."
        raise DataError(f"{error} {advice}") from error


def _label(recipe: LabelRecipe, store: ImageStore, pairs: bool) -> ImageStore:
    labelled = recipe(store)
    if pairs and labelled.healthy(0) is None:
        raise DataError(f"{type(recipe).__name__} gives no healthy counterparts; --model.supervision pairs needs them.")
    return labelled


def _works(recipe: LabelRecipe, store: ImageStore, pairs: bool) -> bool:
    try:
        _label(recipe, store, pairs)
    except DataError:
        return False
    return True
