"""What a user allows to be done with their texts: training, and sharing them with all.

Taking a permission back takes back what came of it: refreshes under way, and through
`server.withdrawal` every version that learnt from the user with others.
"""

from sqlalchemy import update
from sqlalchemy.orm import Session

from server import population, withdrawal
from server.cancellation import PUBLISHING, give_up
from server.store.tables.people import User
from server.store.users import require_consent


def change(
    session: Session, user: User, consent: bool | None = None, shares: bool | None = None
) -> set[int]:
    """Change what a user allows. Without consent nothing is shared.

    Args:
        session: A writing transaction that has done nothing yet.
        user: Whose texts.
        consent: Whether adapters may be trained on them; None leaves that as it is.
        shares: Whether the population's may be; None leaves that as it is.

    Returns:
        The ids of those who lost versions, whose files are to be drained.

    Raises:
        UnprocessableError: The texts are to be shared without consent to training.
    """
    population.turn(session)
    current = session.get_one(User, user.id, populate_existing=True)
    consents = current.consent if consent is None else consent
    if shares is None:
        shares = current.shares and consents
    require_consent(user.name, consents, shares)
    if not consents:
        # What is being published was allowed; it may have ended just now, which is no error.
        give_up(session, user.id, sparing=PUBLISHING)
    lost = set[int]() if shares else withdrawal.withdraw(session, user.id)
    session.execute(update(User).where(User.id == user.id).values(consent=consents, shares=shares))
    return lost
